"""Training under ``torch.compile``: what is compiled, what is not, and that results stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf_lightning.callbacks import CompiledPasses
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    ContinuousEngine,
    NativeEngine,
    RewardModelScorer,
    WeightedSum,
    backbones,
    compile_passes,
    hidden_states,
)
from rlhf_lightning.modules import PPOModule


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Graphs are traced and then run as they are, which takes no compiler; the inputs of each run are counted."""
    runs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*arguments: Any) -> Any:
            runs.append(len(arguments))
            return graph(*arguments)

        return run

    monkeypatch.setattr(
        "rlhf_lightning.models.compiler.compile_options", lambda **options: options | {"backend": backend}
    )
    monkeypatch.setattr("rlhf_lightning.callbacks.compiled_passes.check_compiler", lambda *_, **__: None)
    yield runs
    torch.compiler.reset()


def fit(make_trainer: Any, module: L.LightningModule, data: Any, *callbacks: L.Callback) -> None:
    torch.manual_seed(0)
    make_trainer(callbacks=list(callbacks)).fit(module, data)


@pytest.mark.parametrize("padding_free", [False, True])
def test_ppo_learns_what_it_learns_without(
    compiled: list[int], make_ppo: Callable[..., PPOModule], make_data: Any, make_trainer: Any, padding_free: bool
) -> None:
    trained = []
    for callbacks in ([], [CompiledPasses()]):
        module = make_ppo(padding_free=padding_free)
        assert not compiled
        fit(make_trainer, module, make_data(text=True, iterations=1), *callbacks)
        trained.append(module.state_dict())
    assert compiled
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, msg=name)


def test_every_role_is_compiled_and_sampling_is_not(
    compiled: list[int], make_ppo: Callable[..., PPOModule], make_data: Any, make_trainer: Any
) -> None:
    counted: dict[str, int] = {}

    module = make_ppo()
    for name in ("rollout", "evaluate"):
        made = getattr(module, name)

        def counting(*arguments: Any, name: str = name, made: Any = made) -> Any:
            before = len(compiled)
            found = made(*arguments)
            counted[name] = len(compiled) - before
            return found

        setattr(module, name, counting)
    fit(make_trainer, module, make_data(iterations=1), CompiledPasses())
    assert counted["rollout"] == 0
    passes = 8 / 2  # micro-batches
    assert counted["evaluate"] >= 3 * passes  # of policy, reference and value model
    assert len(compiled) >= (3 + 2) * passes


def test_what_cannot_be_compiled_says_so(make_trainer: Any) -> None:
    class Foreign(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 1)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch).sum()

    with pytest.raises(UserError, match="Foreign has no model of transformers; compile your own with torch.nn.Module"):
        fit(make_trainer, Foreign(), torch.utils.data.DataLoader(torch.zeros(2, 1)), CompiledPasses())


def test_without_a_compiler_nothing_starts(
    make_ppo: Callable[..., PPOModule], make_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no g++ found\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(UserError, match=r"compiled_passes\]: torch.compile does not work here \(no g\+\+ found\)"):
        fit(make_trainer, make_ppo(), make_data(), CompiledPasses())


def test_sampling_that_fails_leaves_passes_compiled(
    compiled: list[int], make_causal_lm: Callable[[str], PreTrainedModel]
) -> None:
    model = make_causal_lm("llama")
    compile_passes(model.base_model)
    ids = torch.ones(1, 2, dtype=torch.long)
    hidden_states(model, ids)
    assert len(compiled) == 1
    with pytest.raises(UserError, match="does not have it here"):
        NativeEngine(attn_implementation="none").generate(
            model, ids, torch.tensor([2]), max_new_tokens=1, eos_token_id=0, pad_token_id=1
        )
    hidden_states(model, ids)
    assert len(compiled) == 2


def test_sampling_beside_training_is_refused(
    compiled: list[int], make_ppo: Callable[..., PPOModule], make_data: Any, make_trainer: Any
) -> None:
    with pytest.raises(UserError, match="set rollout.async=false or leave compiled_passes out"):
        fit(make_trainer, make_ppo(async_rollouts=True), make_data(), CompiledPasses())


def test_continuous_batching_samples_with_passes_as_they_are(
    compiled: list[int], make_causal_lm: Callable[[str], PreTrainedModel]
) -> None:
    model = make_causal_lm("llama")
    compile_passes(model.base_model)
    ids = torch.ones(1, 2, dtype=torch.long)
    ContinuousEngine().generate(model, ids, torch.tensor([2]), max_new_tokens=2, eos_token_id=0, pad_token_id=1)
    assert not compiled


def test_the_models_of_a_sum_of_rewards_are_found(
    reward_model_folders: dict[str, Path], make_ppo: Callable[..., PPOModule]
) -> None:
    scorer = RewardModelScorer(name=str(reward_model_folders["llama"]))
    module = make_ppo(reward=WeightedSum(rewards=[scorer, len], weights=[1.0, 0.5]))
    assert scorer.model.model.base_model in backbones(module, module.reward)
