"""How far a model has moved from another, measured on its own samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_lightning.data import Encoder
from rlhf_lightning.evaluation.sampling import Samples
from rlhf_lightning.functional import kl_estimate
from rlhf_lightning.models import TokenLogprobs, generation_mode


def sequence_logprobs(
    logprobs: TokenLogprobs,
    prompt_ids: Sequence[Sequence[int]],
    response_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
) -> Tensor:
    """Log-probability of each response as a whole: ``log π(y|x) = Σ_t log π(y_t | x, y_<t)``.

    Shapes:
        prompt_ids, response_ids: b lists of ids. Result: [b], float64; 0 for an empty response.
    """
    device = next(logprobs.model.parameters()).device
    lengths = torch.tensor([len(p) + len(r) for p, r in zip(prompt_ids, response_ids, strict=True)])
    result = torch.zeros(len(lengths), dtype=torch.float64)
    with generation_mode(logprobs.model):
        # Neighbours in length share a batch, so that little of it is padding.
        for rows in torch.split(torch.argsort(lengths, stable=True), batch_size):
            input_ids = torch.zeros(len(rows), int(lengths[rows].max()), dtype=torch.long)
            targets = torch.zeros_like(input_ids, dtype=torch.bool)
            for line, row in enumerate(rows.tolist()):
                start, end = len(prompt_ids[row]), int(lengths[row])
                input_ids[line, :end] = torch.tensor([*prompt_ids[row], *response_ids[row]])
                targets[line, start:end] = True
            if targets.any():
                chosen, _ = logprobs(input_ids.to(device), targets.to(device), entropy=False)
                spread = torch.zeros(targets.shape, dtype=torch.float64)
                result[rows] = spread.masked_scatter(targets, chosen.double().cpu()).sum(1)
    return result


def kl_from(
    baseline: TokenLogprobs,
    baseline_encoder: Encoder,
    model: TokenLogprobs,
    encoder: Encoder,
    samples: Samples,
    prompts: Sequence[str],
    *,
    prompted: bool = False,
    batch_size: int = 64,
) -> list[float]:
    """Per response the k1 estimate of KL(π‖π_baseline): ``Σ_t log π(y_t|·) − log π_baseline(y_t|·)``.

    Both models read the very ids that were sampled. Where they cannot (other tokenizers, or a model that answers after
    a few-shot prefix and ends with a newline), the baseline reads the same text in its own form instead: then it is
    the divergence of the two distributions over text, end included.

    Args:
        baseline, model: at the temperature of the samples.
        samples: of ``model``, which answered ``prompts``.
        prompted: the samples were made with a few-shot prefix.
        batch_size: sequences per forward pass.
    """
    own = sequence_logprobs(model, samples.prompt_ids, samples.response_ids, batch_size=batch_size)
    if not prompted and encoder.fingerprint() == baseline_encoder.fingerprint():
        prompt_ids, response_ids = samples.prompt_ids, samples.response_ids
    else:
        read = [
            baseline_encoder.example(prompt, text, finished=finished)
            for prompt, text, finished in zip(prompts, samples.responses, samples.finished, strict=True)
        ]
        prompt_ids, response_ids = [prompt for prompt, _ in read], [response for _, response in read]
    theirs = sequence_logprobs(baseline, prompt_ids, response_ids, batch_size=batch_size)
    return [float(kl) for kl in kl_estimate(own, theirs, estimator="k1")]
