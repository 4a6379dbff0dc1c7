"""Muon for the hidden matrices, AdamW for the rest, as one optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf_lightning import functional
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import ScalarModel
from rlhf_lightning.modules import Muon, muon
from rlhf_lightning.modules.optimization import lr_scheduler, parameter_groups

SMALL = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def _optimizer(weight: Tensor, gradient: Tensor, **options: Any) -> tuple[Muon, nn.Linear]:
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight.data.copy_(weight)
    model.weight.grad = gradient.clone()
    return Muon(parameter_groups({"policy": model}, {"policy": 0.1}, 0.0), **options), model


def test_a_diagonal_gradient_moves_every_direction_by_about_the_same() -> None:
    """Of diag(100, 1) the orthogonal factor is the identity. Five Newton-Schulz steps with the published coefficients
    leave its singular values between 0.68 and 1.13 (bfloat16 inside); 0.2 sqrt(max(2, 2)) is the scale of AdamW."""
    optimizer, model = _optimizer(torch.zeros(2, 2), torch.diag(torch.tensor([100.0, 1.0])))
    optimizer.step()
    step = -model.weight.detach() / (0.1 * 0.2 * 2**0.5)
    assert step[0, 1].abs() < 0.01 and step[1, 0].abs() < 0.01
    assert 0.6 < float(step[0, 0]) < 1.2 and 0.4 < float(step[1, 1]) < 1.2  # 1 / 100 before


def test_the_update_has_the_gradients_singular_vectors() -> None:
    gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    optimizer, model = _optimizer(torch.zeros(6, 4), gradient, adjust_lr_fn="original", matrix_lr_ratio=3.0)
    optimizer.step()
    step = -model.weight.detach() / (0.1 * 3.0 * (6 / 4) ** 0.5)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    sizes = u.T @ step @ v.T
    assert (sizes - torch.diag(sizes.diag())).abs().max() < 0.05
    assert ((sizes.diag() > 0.6) & (sizes.diag() < 1.25)).all()


def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False))


def _train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, 16, (2, 6), generator=generator)
        model(input_ids=ids, labels=ids).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.usefixtures("in_bfloat16")
def test_it_is_torchs_muon_and_torchs_adamw_side_by_side() -> None:
    ours, theirs = _llama(), _llama()
    groups = parameter_groups({"policy": ours}, {"policy": 0.01}, 0.1)
    _train(ours, [Muon(groups, matrix_lr_ratio=2.0, betas=(0.9, 0.95), eps=1e-5)], 4)
    hidden = {n: p for n, p in theirs.model.layers.named_parameters() if p.ndim == 2}
    embeddings = [theirs.model.embed_tokens.weight, theirs.lm_head.weight]
    norms = [p for p in theirs.parameters() if p.ndim == 1]
    assert len(hidden) + len(embeddings) + len(norms) == len(list(theirs.parameters()))
    rest = [{"params": embeddings, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    matrices = torch.optim.Muon(hidden.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    _train(theirs, [matrices, torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), eps=1e-5, fused=True)], 4)
    before = _llama()
    for (name, a), b, start in zip(ours.named_parameters(), theirs.parameters(), before.parameters(), strict=True):
        # Together or one by one, bfloat16 rounds in another order: 1 % of the way that each matrix went.
        assert (a - b).norm() < 0.01 * (b - start).norm(), name


def test_large_matrices_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = _llama(), _llama()
    _train(whole, [Muon(parameter_groups({"policy": whole}, {"policy": 0.01}, 0.1))], 2)
    stacks = []

    def newton_schulz(matrices: Tensor, *, steps: int) -> Tensor:
        stacks.append(len(matrices))
        return functional.newton_schulz(matrices, steps=steps)

    monkeypatch.setattr(muon, "newton_schulz", newton_schulz)
    monkeypatch.setattr(muon, "_STACKED", 2 * 8 * 8)  # two of the four attention matrices
    _train(parts, [Muon(parameter_groups({"policy": parts}, {"policy": 0.01}, 0.1))], 2)
    assert stacks == [2, 2, 1, 1, 1] * 2
    for a, b, start in zip(whole.parameters(), parts.parameters(), _llama().parameters(), strict=True):
        assert (a - b).norm() < 0.01 * (b - start).norm()


@pytest.mark.parametrize("way", ["state dict", "deepcopy"])
def test_it_goes_on_bit_for_bit(way: str) -> None:
    whole, parts = _llama(), _llama()

    def make(model: nn.Module) -> Muon:
        return Muon(parameter_groups({"policy": model}, {"policy": 0.01}, 0.1))

    kept = make(whole)
    _train(whole, [kept], 3)
    _train(whole, [kept], 3, seed=1)
    first = make(parts)
    _train(parts, [first], 3)
    if way == "state dict":
        saved, second = copy.deepcopy(first.state_dict()), make(parts)
        second.load_state_dict(saved)
    else:
        parts, second = copy.deepcopy((parts, first))
    _train(parts, [second], 3, seed=1)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_moves_both() -> None:
    model = _llama()
    optimizer = Muon(parameter_groups({"policy": model}, {"policy": 0.01}, 0.1), matrix_lr_ratio=5.0)
    scheduler = lr_scheduler(optimizer, schedule="cosine", total=lambda: 2, warmup=0, floor=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    _train(model, [optimizer], 1)
    scheduler.step()
    scheduler.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}
    after = [p.detach().clone() for p in model.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    _train(model, [optimizer], 1)
    assert all(torch.equal(a, p) for a, p in zip(after, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("model", "embeddings"),
    [
        (_llama, 2),
        (lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)), 1),
        (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2)), 2),
        (lambda: ScalarModel(LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1))), 2),
    ],
    ids=["llama", "tied", "gpt2", "reward"],
)
def test_embeddings_and_heads_are_not_hidden_matrices(model: Any, embeddings: int) -> None:
    made = model()
    groups = {g["kind"]: g["params"] for g in parameter_groups({"m": made}, {"m": 0.1}, 0.0)}
    assert len(groups["embedding"]) == embeddings
    assert all(p.ndim == 2 and min(p.shape) > 1 for p in groups["matrix"])
    assert sum(map(len, groups.values())) == len(list(made.parameters()))


def test_bad_settings_are_named() -> None:
    model = nn.Linear(2, 2)
    groups = parameter_groups({"policy": model}, {"policy": 0.1}, 0.0)
    with pytest.raises(UserError, match=r"optimizer\.adjust_lr_fn='adam'"):
        Muon(groups, adjust_lr_fn="adam")
    with pytest.raises(UserError, match=r"optimizer\.matrix_lr_ratio=0\.0"):
        Muon(groups, matrix_lr_ratio=0.0)
    with pytest.raises(UserError, match="no hidden matrix"):
        Muon(parameter_groups({"policy": nn.LayerNorm(3)}, {"policy": 0.1}, 0.0))
    with pytest.raises(UserError, match="parameter_groups"):
        Muon([{"params": list(model.parameters())}])
