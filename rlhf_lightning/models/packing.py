"""Forward passes over packs: several examples in one row that do not see each other."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.block_masks import example_block_mask, reads_block_masks
from rlhf_lightning.models.compiler import is_compiled
from rlhf_lightning.models.context import check_context, text_config
from rlhf_lightning.models.forward import hidden_states, masked_states
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.policy import is_own
from rlhf_lightning.models.sequence_attention import Sequences, attention_arguments, reads_layouts
from rlhf_lightning.models.shapes import missing_states

Layout = Literal["apart", "rows", "flat", "masked"]


class PackedStates:
    """Last hidden states of packed rows, every example as if it stood alone.

    There are four ways to tell a model of transformers where an example ends, and each is silently ignored by some
    combination of architecture and ``attn_implementation``:

    - ``apart``: all packs joined in one row without padding, whose examples sdpa lays out as padded batches
      (``models/sequence_attention.py``); on a CPU, where this costs the least.
    - ``rows``: position ids that restart and no mask; the model makes a block-diagonal causal mask of them
      (sdpa, eager, flex_attention). OPT does not hand the position ids to its mask.
    - ``flat``: the same with all packs joined in one row without padding. FlashAttention looks for restarts only
      where the batch is one row.
    - ``masked``: a mask [p, 1, s, s] beside the position ids. It would replace a sliding window, so it is not tried
      on models that have one.

    Which of them is right for a model is measured, not looked up: once, on a few tokens, the states of packed
    examples must be those of the examples alone and must not change with the tokens of their neighbours.

    Args:
        model: a transformers model.
        key, off: the option that asks for this, and how to do without, for errors.
    """

    def __init__(self, model: nn.Module, *, key: str = "data.packing", off: str = "data.packing=null") -> None:
        self.model = model
        self._key, self._off = key, off
        self.layout: Layout | None = None

    def check(self) -> Layout:
        """The way that is right for this model; found at the first call.

        Raises:
            UserError: positions are no input of the model (ALiBi, recurrent models), or no way keeps examples apart.
        """
        if self.layout is None:
            self.layout = _find_layout(self.model, self._key, self._off)
        return self.layout

    def __call__(
        self, input_ids: Tensor, lengths: Tensor, position_ids: Tensor, *, longest: int | None = None
    ) -> Tensor:
        """Hidden states; those of padding are arbitrary.

        Shapes:
            input_ids, position_ids: [p, s]; lengths: [p]; see ``PackedBatch``. Result: [p, s, d].
            longest: tokens of the longest example, where they are known: a GPU would have to be waited for.

        Raises:
            UserError: see ``check``; an example longer than the model's context.
        """
        layout = self.check()
        check_context(self.model, int(position_ids.max()) + 1 if longest is None else longest)
        return _forward(self.model, layout, input_ids, lengths, position_ids)


def _forward(model: nn.Module, layout: Layout, input_ids: Tensor, lengths: Tensor, position_ids: Tensor) -> Tensor:
    if layout == "masked":
        flexible = reads_block_masks(model)
        sees = example_block_mask(position_ids) if flexible else _own_example(position_ids)
        return masked_states(model, input_ids, position_ids, sees)
    backbone: nn.Module = model.base_model  # type: ignore[assignment]  # a module, though nn.Module does not say so
    arguments: dict[str, Any] = {"input_ids": input_ids, "position_ids": position_ids}
    if "use_cache" in inspect.signature(backbone.forward).parameters:
        arguments["use_cache"] = False  # with a cache, position ids are not searched for restarts
    if layout not in ("apart", "flat") or (layout == "flat" and len(input_ids) == 1):
        hidden: Tensor = backbone(**arguments).last_hidden_state
        return hidden
    real = torch.arange(input_ids.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    ids, positions = input_ids[real], position_ids[real]
    if layout == "apart":
        starts = (positions == 0).nonzero().squeeze(1)
        examples = torch.diff(starts, append=starts.new_tensor([len(ids)]))
        more = missing_states(ids, model)  # few numbers of tokens are wanted there (models/shapes.py)
        ids, positions = pad(ids, (0, more)), pad(positions, (0, more))
        arguments |= attention_arguments(Sequences.of(examples, behind=more, compiled=is_compiled(model)))
    arguments |= {"input_ids": ids.unsqueeze(0), "position_ids": positions.unsqueeze(0)}
    states: Tensor = backbone(**arguments).last_hidden_state[0, : int(lengths.sum())]
    if len(states) == input_ids.numel():
        return states.view(*input_ids.shape, -1)
    hidden = states.new_zeros((*input_ids.shape, states.shape[-1]))
    return hidden.masked_scatter(real.unsqueeze(-1), states)


def _own_example(position_ids: Tensor) -> Tensor:
    """[p, s, s], bool: a token sees the tokens of its own example, not behind it."""
    example = (position_ids == 0).cumsum(1)
    return (example.unsqueeze(2) == example.unsqueeze(1)).tril()


def _find_layout(model: nn.Module, key: str, off: str) -> Layout:
    name = type(model).__name__
    if is_own(model):
        raise UserError(f"{key}: {name} is no model of transformers and takes no packs; set {off}")
    backbone: nn.Module = model.base_model  # type: ignore[assignment]  # a module, though nn.Module does not say so
    if "position_ids" not in inspect.signature(backbone.forward).parameters:
        raise UserError(f"{key}: {name} takes no position ids, so positions cannot restart inside a pack; set {off}")
    layouts: list[Layout] = [*(("apart",) if reads_layouts(model) else ()), "rows", "flat"]
    if getattr(text_config(model), "sliding_window", None) is None:
        layouts.append("masked")
    for layout in layouts:
        if _keeps_apart(model, layout):
            return layout
    raise UserError(
        f"{key}: {name} with this attention does not keep the examples of a pack apart; set another "
        f"model.attn_implementation or {off}"
    )


def _keeps_apart(model: nn.Module, layout: Layout) -> bool:
    """Whether four short examples in two packs have the states that they have alone, whatever stands beside them."""
    device = next(model.parameters()).device
    # nn.Module declares no methods of transformers.
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    lengths = torch.tensor([8, 6], device=device)
    # Row, start and end of the two examples of both packs.
    examples = [(0, 0, 3), (0, 3, 8), (1, 0, 4), (1, 4, 6)]
    ids = (torch.arange(16, device=device).view(2, 8) * 7 + 1) % vocabulary
    positions = torch.zeros(2, 8, dtype=torch.long, device=device)
    neighbours = ids.clone()
    for row, start, end in examples:
        positions[row, start:end] = torch.arange(end - start)
        if start == 0:
            neighbours[row, :end] = (ids[row, :end] + 3) % vocabulary
    with generation_mode(model):
        alone = [hidden_states(model, ids[row : row + 1, start:end])[0].float() for row, start, end in examples]
    try:
        with generation_mode(model):
            found = _forward(model, layout, ids, lengths, positions).float()
            beside_others = _forward(model, layout, neighbours, lengths, positions).float()
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return False  # this way is not merely ignored here but not taken at all
    in_packs = [found[row, start:end] for row, start, end in examples]
    full = next(model.parameters()).dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
    scale = torch.cat(alone).abs().max().clamp(min=1e-6)
    same = all((a - b).abs().max() <= (1e-4 if full else 5e-2) * scale for a, b in zip(in_packs, alone, strict=True))
    # The rounding of the two runs is the same, so that a leak shows in any dtype, however weak it is.
    unmoved = all(
        (found[row, start:end] - beside_others[row, start:end]).abs().max() <= 1e-6 * scale
        for row, start, end in examples
        if start > 0
    )
    return bool(same and unmoved)
