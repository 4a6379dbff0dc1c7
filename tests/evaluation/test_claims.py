from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import Claim, Evidence, check_claims, claims_table, write_claims

MODELS = ("base", "base_prompted", "base_respectful", "sft", "ppo", "ppo_kl", "ppo_ptx", "ppo_ptx_respectful")
BETTER = [("base_prompted", "base"), ("sft", "base_prompted"), ("ppo_ptx", "sft")]
PROMPTS = 100


def evaluated(folder: Path, *, fails: str | None = None, seed: int = 0) -> Path:
    """The files of an evaluation in which all claims hold, by far, but one."""
    draw = np.random.default_rng(seed)

    def drawn(share: float) -> list[float]:
        return (draw.random(PROMPTS) < share).astype(float).tolist()

    truthful = {"base": 0.3, "sft": 0.4, "ppo_ptx": 0.4 if fails == "truthful_over_sft" else 0.9}
    rude = {"base_respectful": 0.5, "ppo_ptx_respectful": 0.5 if fails == "rude_respectful" else 0.02}
    gold = {"ppo_ptx": 3.0, "ppo_kl": 3.0 if fails == "larger_kl_costs_reward" else 1.0}
    samples = {}
    for name in MODELS:
        columns = [drawn(truthful.get(name, 0.5)), drawn(rude.get(name, 0.1))]
        rows = [
            {"prompt": str(n), "truthful": t, "rude": r, "gold_reward": gold.get(name, 0.0) + float(draw.normal())}
            for n, (t, r) in enumerate(zip(*columns, strict=True))
        ]
        samples[name] = str(folder / f"samples_{name}.jsonl")
        write(Path(samples[name]), rows)
    keys = dict(zip(BETTER, ("prompted_over_base", "sft_over_prompted", "ptx_over_sft"), strict=True))
    verdicts = []
    for judge in ("heldout", "train"):
        for first, second in BETTER:
            share = 0.5 if keys[first, second] == fails else 0.8
            if fails == "generalises" and judge == "train":
                share = 0.98
            # The files name a pair in the order of the models, which need not be that of the claim.
            verdicts += [
                {"judge": judge, "first": second, "second": first, "row": n, "preference": 1 - won, "first_shown": True}
                for n, won in enumerate(drawn(share))
            ]
    write(folder / "preferences.jsonl", verdicts)
    levels = {"sft": 1.0, "ppo": 1.3, "ppo_ptx": 0.9, "ppo_kl": 1.05}
    if fails == "ptx_takes_back_tax":
        levels["ppo_ptx"] = 1.1
    if fails == "larger_kl_does_not":
        levels["ppo_kl"] = 0.95
    noise = draw.normal(size=50) * 0.1
    losses = []
    for name in MODELS:
        means = [levels.get(name, 1.0) + float(n) + float(draw.normal()) * 0.01 for n in noise]
        losses.append({"model": name, "blocks": [[20 * mean, 20] for mean in means]})
    write(folder / "text_losses.jsonl", losses)
    report = {"samples": samples, "settings": {"prompts": PROMPTS}, "seconds": {"total": 12.5}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def checked(folder: Path) -> dict[str, Claim]:
    claims = check_claims([Evidence(json.loads((folder / "report.json").read_text()))])
    return {claim.key: claim for claim in claims}


def test_claims_that_are_true_hold(tmp_path: Path) -> None:
    found = checked(evaluated(tmp_path))
    assert {key: claim.holds for key, claim in found.items()} == dict.fromkeys(found, True)
    assert len(found) == 12
    assert found["ptx_over_sft"].value == pytest.approx(0.8, abs=0.1)
    assert found["tax"].value == pytest.approx(0.3, abs=0.01)
    assert found["ptx_takes_back_tax"].value == pytest.approx(0.4 / 0.3, abs=0.05)
    assert found["larger_kl_does_not"].value == pytest.approx(0.25 / 0.3, abs=0.05)
    assert found["larger_kl_costs_reward"].value == pytest.approx(-2, abs=0.4)


@pytest.mark.parametrize(
    "key",
    [
        "prompted_over_base",
        "sft_over_prompted",
        "generalises",
        "truthful_over_sft",
        "rude_respectful",
        "ptx_takes_back_tax",
        "larger_kl_does_not",
        "larger_kl_costs_reward",
    ],
)
def test_a_claim_that_is_false_fails_alone(key: str, tmp_path: Path) -> None:
    found = checked(evaluated(tmp_path, fails=key))
    assert [name for name, claim in found.items() if not claim.holds] == [key]


def test_what_was_not_measured_is_no_failure(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    for name in ("ppo_kl", "ppo_ptx_respectful"):
        del report["samples"][name]
    (folder / "text_losses.jsonl").unlink()
    found = {claim.key: claim for claim in check_claims([Evidence(report)])}
    unknown = {"rude_respectful", "tax", "ptx_takes_back_tax", "larger_kl_does_not", "larger_kl_costs_reward"}
    assert {key for key, claim in found.items() if claim.holds is None} == unknown
    assert "| – |" in claims_table({"all": list(found.values())})


def test_seeds_are_pooled_and_the_table_shows_each(tmp_path: Path) -> None:
    folders = {seed: evaluated(tmp_path / str(seed), seed=seed) for seed in (0, 1, 2)}
    evaluated(tmp_path / "1", fails="rude_respectful", seed=1)
    page = write_claims(folders, tmp_path / "out", command="rlhf-pipeline experiment=claims")
    content = json.loads((tmp_path / "out" / "claims.json").read_text())
    by_key = {name: {c["key"]: c for c in claims} for name, claims in content["claims"].items()}
    assert [by_key[name]["rude_respectful"]["holds"] for name in ("0", "1", "2", "all")] == [True, False, True, True]
    single = [by_key[str(seed)]["ptx_over_sft"] for seed in folders]
    together = by_key["all"]["ptx_over_sft"]
    assert together["value"] == pytest.approx(sum(one["value"] for one in single) / 3)
    assert together["high"] - together["low"] < 0.8 * min(one["high"] - one["low"] for one in single)
    text = page.read_text()
    assert "12 of 12 claims hold over all seeds" in text
    assert "| seed 0 | seed 1 | seed 2 | all |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| Asked for manners")]
    assert line.count("✓") == 3
    assert line.count("**✗**") == 1
    assert "rlhf-pipeline experiment=claims" in text
    assert (tmp_path / "out" / "plots" / "claims.png").stat().st_size > 10_000


def test_samples_that_are_gone_are_named(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    (folder / "samples_sft.jsonl").unlink()
    with pytest.raises(UserError, match=r"samples_sft.jsonl.*evaluate the models again"):
        checked(folder)
