"""Batches, a way to train on them and an optimizer that records gradients instead of taking steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from rlhf_lightning.data import (
    ComparisonBatch,
    Encoder,
    PromptBatch,
    TokenBatch,
    collate_comparisons,
    collate_prompts,
    collate_tokens,
    pairs_from_ranks,
)
from rlhf_lightning.models import ScalarModel
from rlhf_lightning.modules import PPOModule
from rlhf_lightning.modules.optimization import parameter_groups

WORDS = ["hi", "name a cat", "why", "what is it?", "go", "tell me more", "a", "list two"]


@pytest.fixture
def loader() -> Callable[[Iterable[Any]], DataLoader[Any]]:
    """A loader of ready batches, in order."""
    # A list of ready batches serves as a dataset.
    return lambda batches: DataLoader(list(batches), batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


@pytest.fixture
def fit(make_trainer: Callable[..., L.Trainer], loader: Callable[..., DataLoader[Any]]) -> Callable[..., L.Trainer]:
    """Train a module on ready batches; returns the trainer."""

    def run(module: L.LightningModule, batches: Sequence[Any], *, validation: Any = (), **options: Any) -> L.Trainer:
        ckpt_path = options.pop("ckpt_path", None)
        trainer = make_trainer(**options)
        val = loader(validation) if validation else None
        trainer.fit(module, loader(batches), val, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run


class Recorder:
    """Makes optimizers that record gradients by role and learning rates, and leave the weights alone."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.rates: list[list[float]] = []

    def __call__(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        recorder = self

        class Recording(torch.optim.SGD):
            # torch overloads it; one form is enough here.
            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                if closure is not None:
                    closure()
                found: dict[str, list[Tensor]] = {}
                for group in self.param_groups:
                    for parameter in group["params"]:
                        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                        found.setdefault(group["role"], []).append(gradient.detach().flatten().clone())
                recorder.gradients.append({role: torch.cat(parts) for role, parts in found.items()})
                rates = {group["role"]: group["lr"] for group in self.param_groups}
                recorder.rates.append(list(rates.values()))

        return Recording(groups)


@pytest.fixture
def make_recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def flat_gradient() -> Callable[[nn.Module], Tensor]:
    """All gradients of a model as one vector, in the order in which a Recorder gives them."""

    def flat(model: nn.Module) -> Tensor:
        ordered = [p for group in parameter_groups({"role": model}, {"role": 1.0}, 0.0) for p in group["params"]]
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in ordered])

    return flat


@pytest.fixture
def assert_same_gradients() -> Callable[..., None]:
    def check(found: dict[str, Tensor], expected: dict[str, Tensor], *, relative: float = 1e-5) -> None:
        assert found.keys() == expected.keys()
        for role, gradient in expected.items():
            assert gradient.norm() > 0, role
            assert (found[role] - gradient).norm() <= relative * gradient.norm(), role

    return check


@pytest.fixture
def tokens(encoder: Encoder) -> TokenBatch:
    """Eight demonstrations of mixed length; the labels are the responses and their EOS."""
    rows = []
    for index, prompt in enumerate(WORDS):
        ids = encoder.prompt(prompt)
        response = encoder.response("yes, no. "[: 2 + index])
        rows.append({"input_ids": ids + response, "prompt_length": len(ids)})
    return collate_tokens(rows, pad_id=encoder.pad_token_id)


@pytest.fixture
def comparisons(encoder: Encoder) -> ComparisonBatch:
    """Eight prompts with 2 to 4 completions; one prompt's are all tied, one has a star of pairs."""
    ranks = [[1, 2], [2, 1, 3], [1, 1, 2, 3], [1, 1], [3, 2, 1], [1, 2], [4, 3, 2, 1], [1, 2, 2]]
    answers = ["yes", "no, not at all", "maybe. ask again", "a"]
    rows = []
    for prompt, order in zip(WORDS, ranks, strict=True):
        pairs = [(0, 1), (0, 2)] if prompt == "go" else pairs_from_ranks(order)
        responses = [encoder.response(f"{answer} {prompt}"[:12]) for answer in answers[: len(order)]]
        rows.append({"prompt_ids": encoder.prompt(prompt), "response_ids": responses, "pairs": pairs})
    return collate_comparisons(rows, pad_id=encoder.pad_token_id)


@pytest.fixture
def prompts(encoder: Encoder) -> PromptBatch:
    """Eight prompts of 1 to 12 tokens."""
    rows = [{"input_ids": encoder.prompt(prompt), "prompt": prompt} for prompt in WORDS]
    return collate_prompts(rows, pad_id=encoder.pad_token_id)


@pytest.fixture
def text(encoder: Encoder) -> TokenBatch:
    """Sixteen rows of pretraining text, two for each episode."""
    rows = [
        {"input_ids": encoder.document("the sky is blue. "[i : i + 9], eos=False), "prompt_length": 1} for i in range(8)
    ]
    return collate_tokens(rows * 2, pad_id=encoder.pad_token_id)


def count_of_a(prompts: list[str], responses: list[str]) -> Tensor:
    """A reward of one for every ``a``."""
    return torch.tensor([float(response.count("a")) for response in responses])


@pytest.fixture
def make_ppo(
    make_causal_lm: Callable[[str], PreTrainedModel],
    make_scalar_model: Callable[[str], ScalarModel],
    encoder: Encoder,
) -> Callable[..., PPOModule]:
    """A PPO module on tiny models: no clipping of gradients, no warm-up, one minibatch of 8 an iteration."""

    def make(architecture: str = "llama", *, cls: type[PPOModule] = PPOModule, **options: Any) -> PPOModule:
        settings: dict[str, Any] = {
            "policy": lambda: make_causal_lm(architecture),
            "value": lambda: make_scalar_model(architecture),
            "reward": count_of_a,
            "encoder": encoder,
            "max_new_tokens": 12,
            "minibatch_size": 8,
            "learning_rate": 1e-3,
            "value_learning_rate": 1e-3,
            "warmup_iterations": 0,
            "max_grad_norm": None,
        }
        return cls(**(settings | options))

    return make


class Iterations(L.Callback):
    """Keeps what every training step returns."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append(outputs)


@pytest.fixture
def run(fit: Callable[..., L.Trainer]) -> Callable[..., list[dict[str, Any]]]:
    """Train on dicts of batches; the outputs of every iteration."""

    def iterate(module: PPOModule, *batches: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        watch = Iterations()
        fit(module, batches, callbacks=[watch, *options.pop("callbacks", [])], **options)
        return watch.outputs

    return iterate


@pytest.fixture
def iterations() -> Iterations:
    """A callback that keeps what every training step returns, in ``outputs``."""
    return Iterations()
