"""Whether an exported folder is the model that was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.context import context_length
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.modes import generation_mode

TEXTS = (
    "What do cats eat? Cats eat meat: mice and birds where they hunt, and what is in the bowl where they do not.",
    "The train left at nine, an hour late, and nobody on the platform could say why.",
)
LONGEST = 32


class Difference(NamedTuple):
    """Between the outputs of two models: the largest, beside the largest output, over so many tokens."""

    largest: float
    scale: float
    tokens: int


def check_written(own: Mapping[str, Tensor], folder: Path) -> int:
    """Read the weights in a folder back, one at a time, and compare them bit for bit; returns how many were compared.

    For a model that is written as it stands this says more than outputs could, and needs no second model in memory. A
    weight that transformers writes under another name is not compared, and a tied one once.

    Raises:
        UserError: a weight that is another one.
    """
    compared = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # it is no dict
                if name not in own:
                    continue
                if not torch.equal(_bits(stored.get_tensor(name)), _bits(own[name].detach().cpu())):
                    raise UserError(
                        f"{file.name}: {name} was read back as something else than was written; the disk may be full "
                        "or broken, and the folder is not replaced"
                    )
                compared += 1
    return compared


def outputs(model: Any, encoder: Encoder) -> list[Tensor]:
    """A model's logits, or a scalar model's scores at every token, on two sentences; of a sharded one, which every
    process must ask for them, the same on each."""
    scalar = isinstance(model, ScalarModel)
    longest = min(LONGEST, context_length(model.model if scalar else model) or LONGEST)
    found = []
    with generation_mode(model):
        for ids in sequences(encoder, longest):
            own = ids.to(next(model.parameters()).device)
            output: Tensor = model(own) if scalar else model(input_ids=own).logits
            found.append(output.float().cpu())
    return found


def difference(trained: Sequence[Tensor], exported: Sequence[Tensor]) -> Difference:
    """How far the :func:`outputs` of two models are apart."""
    largest = max(float((one - other).abs().max()) for one, other in zip(trained, exported, strict=True))
    scale = max(float(one.abs().max()) for one in trained)
    return Difference(largest, scale, sum(one.shape[1] for one in trained))


def sequences(encoder: Encoder, longest: int = LONGEST) -> Iterator[Tensor]:
    """The beginnings of two sentences, each as at most ``longest`` ids [1, s] that end with EOS."""
    ids: Sequence[int]
    for ids in encoder.tokenize(TEXTS):
        yield torch.tensor([[*ids[: longest - 1], encoder.eos_token_id]])


def _bits(weight: Tensor) -> Tensor:
    return weight.contiguous().reshape(-1).view(torch.uint8)
