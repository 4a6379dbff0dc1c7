"""Model cards: front matter that the Hub reads, figures that the run gave, and Python that works as it stands."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import metadata_load
from transformers import PreTrainedModel

from rlhf_lightning.data import Encoder
from rlhf_lightning.models import (
    Lora,
    RewardModelScorer,
    RunRecord,
    export_model,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.models.card import Base, base_of, is_own_card, model_card

RECORD = RunRecord(
    method="supervised fine-tuning (SFT)",
    tags=["sft"],
    settings={"learning_rate": 9.65e-6, "schedule": "cosine", "max_grad_norm": None, "center": True, "a|b": "x"},
    data={
        "sources": {
            "train": [
                {
                    "path": "/home/someone/d.jsonl",
                    "rows": 13,
                    "unreadable_rows": {"json": 2},
                    "hash": "0123456789abcdef",
                },
                {"hub": "who/what", "config": None, "split": "train", "revision": "a" * 40, "streaming": True},
            ]
        },
        "counts": {"train": {"rows": 11, "overlong": 3}, "validation": {"rows": 4}},
    },
    metrics={"train/loss": 1.23456789, "val/loss": 2.0},
    notes=["A note."],
    limits=["A limit."],
)
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}ask. {{ m['content'] }}!{% else %}say. {{ m['content'] }}?"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}say. {% endif %}"
)
LEADING = TEMPLATE.replace("say. {{", "say. so, {{")  # writes words before an answer's, as Qwen3's empty think block
BARE = TEMPLATE.replace("{% if add_generation_prompt %}say. {% endif %}", "")  # without a generation prompt
STARTED = "{{ bos_token }}" + TEMPLATE


def card(**options: Any) -> str:
    settings: dict[str, Any] = {"base": Base(name="a/b", hub_id="a/b"), "scalar": False, "adapter": False, "usage": "x"}
    return model_card(RECORD, **settings | options)


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(card(base=Base(name="runs/sft", hub_id="a/b", license="mit")))
    assert metadata_load(file) == {
        "base_model": "a/b",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "rlhf_lightning", "sft"],
    }
    file.write_text(card(base=Base(name="some/folder"), scalar=True, adapter=True))
    assert metadata_load(file) == {  # neither a base that the Hub does not have nor a license that nobody gave
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["rlhf", "rlhf_lightning", "sft", "lora"],
    }


def test_every_figure_is_the_runs() -> None:
    text = card(export="Compared.")
    for line in (
        "# Supervised fine-tuning (SFT) of a/b",
        "| learning_rate | 9.65e-06 |",
        "| schedule | cosine |",
        "| max_grad_norm | none |",
        "| center | yes |",
        "| a\\|b | x |",
        "| train | `d.jsonl` | 13 | json 2 | 0123456789ab |",
        f"| train | `who/what/train` at {'a' * 12} | streamed | none |  |",
        "- train: rows 11, overlong 3",
        "| train/loss | 1.23457 |",
        "A note.",
        "- A limit.",
        "Compared.",
        f"| torch | {torch.__version__} |",
    ):
        assert line in text.splitlines(), line
    assert "home" not in text  # of a machine's folders the Hub learns nothing


def test_what_is_not_known_is_left_out() -> None:
    text = model_card(RunRecord(method="PPO"), base=Base(), scalar=False, adapter=False, usage="x")
    assert re.findall("^## (.*)$", text, re.M) == ["Use", "Versions"]
    assert "trained from weights drawn anew" in text


def test_a_base_is_known_by_its_folders_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert base_of("") == base_of(None) == Base()
    assert base_of("who/what") == Base(name="who/what", hub_id="who/what")
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    assert base_of("runs/sft") == Base(name="runs/sft")
    assert base_of(str(tmp_path / "runs" / "sft")) == Base(name="runs/sft")
    (tmp_path / "runs" / "sft" / "README.md").write_text("---\nbase_model: a/b\nlicense: mit\n---\n")
    assert base_of("runs/sft") == Base(name="runs/sft", hub_id="a/b", license="mit")
    (tmp_path / "runs" / "sft" / "README.md").write_text("---\n: [\n---\nno front matter")
    assert base_of("runs/sft") == Base(name="runs/sft")


def test_weights_drawn_anew_have_no_base(causal_lm_folders: dict[str, Path]) -> None:
    assert load_causal_lm(name=str(causal_lm_folders["llama"]), init="random").name_or_path == ""
    assert load_causal_lm(name=str(causal_lm_folders["llama"])).name_or_path == str(causal_lm_folders["llama"])


def test_a_card_that_was_edited_is_known(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    for text, own in (
        (card(), True),
        (card().replace("A note.", "My note."), False),
        ("# Mine\n", False),
        ("", False),
        (card() + "more\n", False),
    ):
        file.write_text(text)
        assert is_own_card(file) is own


def test_a_folders_card_is_replaced_unless_a_person_wrote_it(
    make_causal_lm: Callable[..., PreTrainedModel], encoder: Encoder, tmp_path: Path
) -> None:
    folder, model = tmp_path / "model", make_causal_lm()
    file = folder / "README.md"
    export_model(model, encoder, folder, record=RECORD)
    first = file.read_text()
    assert "9.65e-06" in first
    export_model(model, encoder, folder, record=RunRecord(method="PPO"))
    assert "# PPO" in file.read_text() and "9.65e-06" not in file.read_text()
    save_model_folder(model, encoder, folder)  # of which no run tells anything
    assert not file.exists()
    for text in ("# Mine\n", first + "My own words.\n"):
        file.write_text(text)
        export_model(model, encoder, folder, record=RECORD)
        save_model_folder(model, encoder, folder)
        assert file.read_text() == text


def run_card(folder: Path) -> str:
    """What the card's own code prints in a process that does not know this package, started in the folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    code += "\nimport sys\nassert 'rlhf_lightning' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("template", [None, TEMPLATE, LEADING, BARE, STARTED])
def test_the_cards_code_scores_as_this_package_does(
    causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path, template: str | None
) -> None:
    own = Encoder(copy.deepcopy(encoder.tokenizer))
    own.tokenizer.chat_template = template
    lora = Lora(rank=4) if template is None else None
    model = load_scalar_model(name=str(causal_lm_folders["llama"]), head="new", lora=lora)
    with torch.no_grad():
        model.head.weight.mul_(5.0)
    folder = export_model(model, own, tmp_path / "rm", record=RECORD).folder
    expected = RewardModelScorer(name=str(folder))(["Name a cat."], ["Tom."])
    torch.testing.assert_close(torch.tensor([float(run_card(folder))]), expected, rtol=1e-5, atol=1e-5)
    if lora is not None:
        found = torch.tensor([float(run_card(folder / "adapter"))])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
