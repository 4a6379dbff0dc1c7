"""Checks that read: padding, generation, the end of a response."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rlhf_lightning.diagnosis.finding import CheckFailed
from rlhf_lightning.diagnosis.patient import Patient, gap
from rlhf_lightning.models import TokenLogprobs, embedding_rows, generate, generation_mode
from rlhf_lightning.modules import SFTModule
from rlhf_lightning.modules.trajectory import join, response_targets


def loads(patient: Patient) -> str:
    """Model and tokenizer load, and belong together."""
    patient.load()
    weights = patient.model.num_parameters()  # which knows how many a quantised layer stands for
    rows = embedding_rows(patient.model)
    return f"{type(patient.model).__name__}, {weights:,} weights, {rows or 0:,} rows for the tokenizer's ids"


def padding(patient: Patient) -> str:
    """A row has the same log-probabilities alone and beside a longer one, whatever token fills it up."""
    batch, model = patient.demonstrations(), patient.model
    logprobs = TokenLogprobs(model)
    real = torch.arange(batch.input_ids.shape[1], device=patient.device) < batch.lengths.unsqueeze(1)
    other = (patient.encoder.pad_token_id + 1) % (embedding_rows(model) or 1)
    rows, worst = _rows(batch.input_ids, batch.loss_mask, batch.lengths), 0.0
    with generation_mode(model):
        alone = torch.cat([logprobs(row, mask)[0] for row, mask in rows])
        for filler in (patient.encoder.pad_token_id, other):
            together, _ = logprobs(torch.where(real, batch.input_ids, filler), batch.loss_mask)
            worst = max(worst, gap(together, alone))
    if worst > patient.tolerance:
        raise CheckFailed(
            f"a row alone and in a padded batch differ by {worst:.2g} nats a token",
            "the model reads its padding; take another architecture or attn_implementation",
        )
    return f"a row alone and in a padded batch agree within {worst:.1g} nats a token"


def generation(patient: Patient) -> str:
    """Sampling with a cache and left padding gives the tokens that it takes the probabilities that training reads."""
    prompts, model = patient.prompts(), patient.model
    with _logits_of(model) as steps:
        sampled = generate(
            model,
            prompts.input_ids,
            prompts.lengths,
            max_new_tokens=patient.new_tokens,
            eos_token_id=-1,  # nothing ends early, so that the rows stay together
            pad_token_id=patient.encoder.pad_token_id,
            generator=torch.Generator(patient.device).manual_seed(0),
        )
    order = torch.argsort(prompts.lengths, stable=True)
    seen = torch.empty(len(order), len(steps), device=patient.device)
    for step, logits in enumerate(steps):
        chosen = sampled.response_ids[order, step].unsqueeze(1)
        seen[order, step] = logits.float().log_softmax(-1).gather(1, chosen).squeeze(1)
    ids = join(prompts, sampled, patient.encoder.pad_token_id)
    targets, lengths = response_targets(prompts.lengths, sampled.lengths, ids.shape[1]), prompts.lengths + len(steps)
    logprobs = TokenLogprobs(model)
    with generation_mode(model):
        read = torch.cat([logprobs(row, mask)[0] for row, mask in _rows(ids, targets, lengths)])
    worst = gap(seen.flatten(), read)
    if worst > patient.tolerance:
        raise CheckFailed(
            f"sampled and teacher-forced log-probabilities differ by {worst:.2g} nats a token",
            "the model's key-value cache or its positions under left padding are wrong; take another architecture or "
            "attn_implementation",
        )
    return f"{read.numel()} sampled tokens agree with teacher forcing within {worst:.1g} nats"


def end_of_response(patient: Patient) -> str:
    """EOS is a label, its logit gets a gradient, and where padding is EOS its embedding can learn."""
    batch, model, eos = patient.demonstrations(), patient.model, patient.encoder.eos_token_id
    last = batch.lengths - 1
    rows = torch.arange(len(last), device=patient.device)
    if not bool((batch.input_ids[rows, last] == eos).all() and batch.loss_mask[rows, last].all()):
        raise CheckFailed(
            "a demonstration does not end with EOS as a label",
            "the tokenizer drops or replaces its EOS token; mend tokenizer.eos_token",
        )
    if getattr(model.get_input_embeddings(), "padding_idx", None) == eos:
        raise CheckFailed(
            "the embedding names EOS as padding, so that it never learns",
            "set padding_idx of the input embedding to None",
        )
    module = SFTModule(policy=lambda: model)
    module.configure_model()
    projected: list[Tensor] = []

    def keep(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            projected.append(output)

    hook = model.get_output_embeddings().register_forward_hook(keep)
    try:
        torch.autograd.backward(module.loss(batch, batch.loss_mask.sum()))
    finally:
        hook.remove()
        model.zero_grad()
    ends = batch.loss_mask.sum(1).cumsum(0) - 1
    gradient = torch.cat([torch.zeros_like(part) if part.grad is None else part.grad for part in projected])[ends, eos]
    if not bool((gradient < 0).all()):
        raise CheckFailed(
            f"the gradient of EOS's logit is {float(gradient.max()):.2g} where EOS is the label; it must be negative",
            "something holds the logit of EOS fixed (suppressed tokens, a masked output layer): take it out",
        )
    same = "; padding is EOS" if patient.encoder.pad_token_id == eos else ""
    return f"EOS (id {eos}) is a label of {len(ends)} of {len(last)} demonstrations and its logit learns{same}"


def _rows(input_ids: Tensor, masks: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Every row and its mask alone, without padding."""
    for ids, mask, length in zip(input_ids, masks, lengths.tolist(), strict=True):
        yield ids[None, :length], mask[None, :length]


@contextlib.contextmanager
def _logits_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """The logits [b, v] that each forward pass within gives for the last token."""
    steps: list[Tensor] = []
    hook = model.register_forward_hook(lambda layer, arguments, output: steps.append(output.logits[:, -1]))
    try:
        yield steps
    finally:
        hook.remove()
