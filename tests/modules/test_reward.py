from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.data import ComparisonBatch, Encoder, TokenBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import RewardModelScorer, ScalarModel, save_model_folder
from rlhf_lightning.modules import RewardModule
from rlhf_lightning.modules.batching import comparison_rows


def _brute_force(model: ScalarModel, batch: ComparisonBatch) -> tuple[Tensor, float]:
    """Loss and accuracy, pair by pair, every completion scored by itself."""
    scores = [
        model.score(ids[None, : int(n)], n.view(1))[0] for ids, n in zip(batch.input_ids, batch.lengths, strict=True)
    ]
    losses: dict[int, list[Tensor]] = {}
    correct = []
    for better, worse, prompt in zip(
        batch.better.tolist(), batch.worse.tolist(), batch.pair_group.tolist(), strict=True
    ):
        losses.setdefault(prompt, []).append(-torch.log(torch.sigmoid(scores[better] - scores[worse])))
        correct.append(bool(scores[better] > scores[worse]))
    loss = torch.stack([torch.stack(pairs).mean() for pairs in losses.values()]).mean()
    return loss, sum(correct) / len(correct)


@pytest.mark.parametrize("share_prompt", [False, True])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8, None, 3])
def test_loss_and_gradient_are_those_of_the_whole_batch(
    fit: Callable[..., L.Trainer],
    make_recorder: Callable[[], Any],
    flat_gradient: Callable[[nn.Module], Tensor],
    assert_same_gradients: Callable[..., None],
    make_scalar_model: Callable[[str], ScalarModel],
    architecture: str,
    comparisons: ComparisonBatch,
    micro_batch_size: int | None,
    share_prompt: bool,
) -> None:
    expected = make_scalar_model(architecture)
    loss, accuracy = _brute_force(expected, comparisons)
    loss.backward()
    gradient = flat_gradient(expected)

    recorder = make_recorder()
    module = RewardModule(
        reward_model=lambda: make_scalar_model(architecture),
        optimizer=recorder,
        micro_batch_size=micro_batch_size,
        share_prompt=share_prompt,
        max_grad_norm=None,
    )
    metrics = fit(module, [comparisons]).callback_metrics
    assert metrics["train/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["train/accuracy"].item() == pytest.approx(accuracy)
    assert_same_gradients(recorder.gradients[0], {"reward": gradient})


def test_a_shared_prompt_is_read_once_for_all_its_completions(
    fit: Callable[..., L.Trainer], make_scalar_model: Callable[..., ScalarModel], comparisons: ComparisonBatch
) -> None:
    tokens: list[int] = []
    model = make_scalar_model()
    model.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    fit(RewardModule(reward_model=lambda: model, share_prompt=True), [comparisons] * 3)
    assert tokens[-2] == tokens[-1] < 0.8 * comparisons.input_ids.numel()  # one pass a batch


def test_every_completion_is_scored_once(
    fit: Callable[..., L.Trainer], make_scalar_model: Callable[..., ScalarModel], comparisons: ComparisonBatch
) -> None:
    rows: list[int] = []

    def make() -> ScalarModel:
        model = make_scalar_model()
        model.model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        return model

    fit(RewardModule(reward_model=make, micro_batch_size=3), [comparisons])
    assert sum(rows) == len(comparisons.input_ids)


def test_a_batch_of_ties_alone_teaches_nothing_and_breaks_nothing(
    fit: Callable[..., L.Trainer],
    make_recorder: Callable[[], Any],
    make_scalar_model: Callable[..., ScalarModel],
    comparisons: ComparisonBatch,
) -> None:
    recorder = make_recorder()
    ties = comparison_rows(comparisons, torch.tensor([3]))
    fit(RewardModule(reward_model=make_scalar_model, optimizer=recorder), [ties])
    assert recorder.gradients[0]["reward"].abs().max() == 0


def test_validation_weighs_loss_by_prompts_and_accuracy_by_pairs(
    fit: Callable[..., L.Trainer], make_scalar_model: Callable[..., ScalarModel], comparisons: ComparisonBatch
) -> None:
    loss, accuracy = _brute_force(make_scalar_model(), comparisons)
    parts = [comparison_rows(comparisons, rows) for rows in (torch.arange(0, 2), torch.arange(2, 8))]
    module = RewardModule(reward_model=make_scalar_model, learning_rate=0.0, micro_batch_size=2)
    metrics = fit(module, [comparisons], validation=parts).callback_metrics
    assert metrics["val/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["val/accuracy"].item() == pytest.approx(accuracy)


def test_it_learns_to_rank(
    fit: Callable[..., L.Trainer], make_scalar_model: Callable[..., ScalarModel], comparisons: ComparisonBatch
) -> None:
    module = RewardModule(reward_model=make_scalar_model, learning_rate=1e-2, schedule="constant")
    metrics = fit(module, [comparisons] * 20).callback_metrics
    assert metrics["train/accuracy"] == 1.0
    assert metrics["train/loss"] < 0.1 < math.log(2)
    assert module.reward_model is not None


class Data(L.LightningDataModule):
    """Comparisons and, for the bias, demonstrations."""

    def __init__(self, batches: Any, demonstrations: Any) -> None:
        super().__init__()
        self.batches, self.demonstrations = batches, demonstrations

    def train_dataloader(self) -> Any:
        return self.batches

    def demonstration_dataloader(self) -> Any:
        return self.demonstrations


def test_demonstrations_score_zero_after_training_and_after_export(
    make_trainer: Callable[..., L.Trainer],
    loader: Callable[..., Any],
    make_scalar_model: Callable[[str], ScalarModel],
    architecture: str,
    comparisons: ComparisonBatch,
    tokens: TokenBatch,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    module = RewardModule(reward_model=lambda: make_scalar_model(architecture), learning_rate=1e-3)
    parts = [TokenBatch(*(field[rows] for field in tokens)) for rows in (slice(0, 3), slice(3, 8))]
    make_trainer().fit(module, datamodule=Data(loader([comparisons] * 3), loader(parts)))
    scores = module.reward_model.score(tokens.input_ids, tokens.lengths)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert scores.std() > 0.1  # shifted, not squashed
    scorer = RewardModelScorer(name=str(save_model_folder(module.reward_model, encoder, tmp_path / "rm")))
    torch.testing.assert_close(scorer.score_ids(tokens.input_ids, tokens.lengths), scores, rtol=0, atol=1e-5)


def test_with_enough_demonstrations_every_score_moves_by_the_bias(
    make_scalar_model: Callable[[str], ScalarModel], comparisons: ComparisonBatch
) -> None:
    # GPT-2's last norm has a bias, so a constant lies in the span of its features.
    model = make_scalar_model("gpt2")
    torch.nn.init.normal_(model.model.transformer.ln_f.bias, mean=1.0)
    module = RewardModule(reward_model=lambda: model)
    module.configure_model()
    ids, lengths = torch.randint(3, 30, (200, 9)), torch.randint(1, 10, (200,))
    demonstrations = TokenBatch(ids, lengths, torch.zeros_like(ids, dtype=torch.bool))
    mean, before = module.score(ids, lengths).mean(), module.score(comparisons.input_ids, comparisons.lengths)
    bias = module.shift_mean_score([demonstrations])
    assert bias.item() == pytest.approx(-mean.item(), abs=1e-5)
    moved = module.score(comparisons.input_ids, comparisons.lengths) - before
    torch.testing.assert_close(moved, bias.float().expand_as(moved), rtol=0.02, atol=0)


@pytest.mark.parametrize("center", [True, False])
def test_no_shift_without_demonstrations_or_when_switched_off(
    make_trainer: Callable[..., L.Trainer],
    loader: Callable[..., Any],
    make_scalar_model: Callable[..., ScalarModel],
    comparisons: ComparisonBatch,
    tokens: TokenBatch,
    center: bool,
) -> None:
    module = RewardModule(reward_model=make_scalar_model, learning_rate=0.0, center=center)
    if center:
        make_trainer().fit(module, loader([comparisons]))
    else:
        make_trainer().fit(module, datamodule=Data(loader([comparisons]), loader([tokens])))
    assert torch.equal(module.reward_model.head.weight, make_scalar_model().head.weight)


def test_a_checkpoint_loads_as_weights_only_without_hydra(
    fit: Callable[..., L.Trainer],
    make_scalar_model: Callable[..., ScalarModel],
    comparisons: ComparisonBatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    module = RewardModule(reward_model=make_scalar_model, learning_rate=1e-2)
    fit(module, [comparisons]).save_checkpoint(tmp_path / "rm.ckpt")
    loaded = RewardModule.load_from_checkpoint(tmp_path / "rm.ckpt", reward_model=make_scalar_model, weights_only=True)
    assert loaded.learning_rate == 1e-2
    assert torch.equal(loaded.reward_model.head.weight, module.reward_model.head.weight)
    with pytest.raises(UserError, match=r"the checkpoint is of another model: reward_model."):
        RewardModule.load_from_checkpoint(
            tmp_path / "rm.ckpt", reward_model=lambda: make_scalar_model("gpt2"), weights_only=True
        )


def test_a_micro_batch_of_nothing_is_refused(make_scalar_model: Callable[..., ScalarModel]) -> None:
    with pytest.raises(UserError, match=r"module.micro_batch_size=0"):
        RewardModule(reward_model=make_scalar_model, micro_batch_size=0)
