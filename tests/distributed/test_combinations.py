"""Two processes with what users combine them with: half precision, early ends, loaders of their own, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

STRATEGIES = ("ddp", "fsdp2")
STAGES = {"sft": "gpt2", "reward": "llama", "ppo": "gpt2"}
HOOKS = ("batch", "validation")
Found = Callable[..., Any]


@pytest.fixture(scope="module")
def found(
    plan: Callable[..., dict[str, Any]], launch: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Found:
    """Everything by one process and by two: two launches for all tests."""
    out = tmp_path_factory.mktemp("combinations")

    def steps(strategy: str) -> list[dict[str, Any]]:
        folder, model = str(out / strategy), {"model": "gpt2"}
        runs = [plan(f"{s}-{strategy}", "mixed", strategy, stage=s, model=m) for s, m in STAGES.items()]
        runs += [plan(f"{name}-{strategy}", name, strategy, **model) for name in ("target_kl", "own_data")]
        return [
            *runs,
            *(
                plan(f"stop-{hook}-{strategy}", "lonely_stop", strategy, folder=f"{folder}-{hook}", hook=hook, **model)
                for hook in HOOKS
            ),
            plan(f"dropout-{strategy}", "dropout", strategy, folder=f"{folder}-straight", **model),
            plan(f"dropout-crashed-{strategy}", "dropout", strategy, folder=folder, crash=3, **model),
            plan(f"dropout-resumed-{strategy}", "dropout", strategy, folder=folder, resume=True, **model),
        ]

    full = [plan(f"{stage}-full", stage, "auto", model=model) for stage, model in STAGES.items()]
    launch(1, [*full, *steps("auto")], out)
    launch(2, [run for strategy in STRATEGIES for run in steps(strategy)], out, 200)

    def load(name: str, rank: int = 0) -> Any:
        return torch.load(out / f"{name}.{rank}.pt", weights_only=False)

    return load


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stage", STAGES)
def test_mixed_precision_trains_as_full_precision_does(found: Found, stage: str, strategy: str) -> None:
    """bfloat16 has 8 bits of mantissa: losses within a hundredth of those of one process, and of full precision where
    nothing was sampled (other roundings sample other responses); weights stay float32."""
    two, one, full = found(f"{stage}-{strategy}"), found(f"{stage}-auto"), found(f"{stage}-full")
    assert two["steps"] == found(f"{stage}-{strategy}", 1)["steps"]
    losses = [name for name in full["steps"][0] if name.endswith("loss")]
    assert losses
    for name in losses:
        assert two["steps"][0][name] == pytest.approx(one["steps"][0][name], abs=1e-2, rel=1e-2), name
        if name not in ("train/policy_loss", "train/value_loss"):
            assert two["steps"][0][name] == pytest.approx(full["steps"][0][name], abs=1e-2, rel=1e-2), name
    assert two["steps"][0] != full["steps"][0]  # it was another precision
    assert all(weight.dtype == torch.float32 for name, weight in two["end"].items())
    assert not same(two["begin"], two["end"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_end_their_passes_together(found: Found, strategy: str) -> None:
    """By ``module.target_kl``, after as many passes as one process."""
    one, first, second = found("target_kl-auto"), found(f"target_kl-{strategy}"), found(f"target_kl-{strategy}", 1)
    assert first["counts"] == second["counts"] == one["counts"]
    assert any(count < 10 for count in one["counts"]), "it never stopped early"
    assert any(count > 2 for count in one["counts"]), "it always stopped at once"
    assert same(first["end"], second["end"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loaders_of_a_users_own_are_shared_out(found: Found, strategy: str) -> None:
    """Under a sampler of torch's, two processes compute what one does; what Lightning shares out is a whole batch."""
    one, two = found("own_data-auto"), found(f"own_data-{strategy}")
    for name, weight in one["end"].items():
        torch.testing.assert_close(weight, two["end"][name], atol=1e-5, rtol=0.0, msg=name)
    assert [len(set(prompts)) for prompts in two["prompts"]] == [8, 8]
    assert same(two["ppo"], found(f"own_data-{strategy}", 1)["ppo"])


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_that_stops_stops_all(found: Found, strategy: str, hook: str) -> None:
    expected = {"batch": 2, "validation": 3}[hook]
    assert found(f"stop-{hook}-auto")["batches"] == expected
    for rank in (0, 1):
        run = found(f"stop-{hook}-{strategy}", rank)
        assert run["batches"] == expected
        if hook == "batch":  # behind a validation Lightning saves no batch any more
            assert run["saved"].name == "iteration-000002.ckpt"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_process_drops_out_something_else(found: Found, strategy: str) -> None:
    first, second = (found(f"dropout-{strategy}", rank) for rank in (0, 1))
    assert len(first["masks"]) == len(second["masks"]) > 4
    pairs = list(zip(first["masks"], second["masks"], strict=True))
    assert all(0.1 < one.float().mean() < 0.6 for one, _ in pairs)
    assert not any(torch.equal(one, other) for one, other in pairs)
    assert same(first["last"], second["last"])


@pytest.mark.parametrize("strategy", ["auto", *STRATEGIES])
def test_dropout_goes_on_where_it_was(found: Found, strategy: str) -> None:
    for rank in range(1 if strategy == "auto" else 2):
        straight, resumed = found(f"dropout-{strategy}", rank), found(f"dropout-resumed-{strategy}", rank)
        done = len(straight["masks"]) - len(resumed["masks"])
        assert done > 0
        assert all(torch.equal(*pair) for pair in zip(straight["masks"][done:], resumed["masks"], strict=True))
        assert same(straight["last"], resumed["last"])
