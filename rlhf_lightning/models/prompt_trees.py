"""Hidden states of K completions with their prompt read once."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import prompt_trees
from rlhf_lightning.models.context import check_context, text_config
from rlhf_lightning.models.forward import hidden_states, masked_states
from rlhf_lightning.models.modes import generation_mode


class PromptTreeStates:
    """Hidden state at the last token of every sequence, where sequences of a group share their beginning.

    What a group begins with is read once (:func:`~rlhf_lightning.functional.prompt_trees`), under an attention mask
    in the shape of a tree. Whether a model heeds such a mask is measured, not looked up: once, on a few tokens, the
    states must be those of the sequences alone and must not change with the tokens of their neighbours.

    Args:
        model: a transformers model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._checked = False

    def check(self) -> None:
        """Measure, at the first call.

        Raises:
            UserError: positions are no input of the model (ALiBi, recurrent models), or its attention ignores masks.
        """
        if self._checked:
            return
        name = type(self.model).__name__
        backbone: nn.Module = self.model.base_model  # type: ignore[assignment]  # a module, though torch does not say so
        if "position_ids" not in inspect.signature(backbone.forward).parameters:
            raise UserError(
                f"module.share_prompt: {name} takes no position ids, so completions cannot continue one prompt side by "
                "side; set module.share_prompt=false"
            )
        if not self._keeps_apart():
            raise UserError(
                f"module.share_prompt: {name} with this attention does not keep the completions of a prompt apart; set "
                "module.share_prompt=false or another model.attn_implementation, such as sdpa"
            )
        self._checked = True

    def __call__(self, input_ids: Tensor, lengths: Tensor, group: Tensor) -> Tensor:
        """Hidden states [n, d].

        Shapes:
            input_ids: [n, s], right padded; lengths: [n]; group: [n], the prompt of each sequence.

        Raises:
            UserError: see :meth:`check`; a sequence longer than the model's context or its sliding window, which a
                tree's mask would replace.
        """
        self.check()
        longest = int(lengths.max())
        check_context(self.model, longest)
        window = getattr(text_config(self.model), "sliding_window", None)
        if window is not None and longest > window:
            raise UserError(
                f"module.share_prompt: a completion with its prompt has {longest} tokens, more than the sliding window "
                f"of {window}: set module.share_prompt=false"
            )
        return self._states(input_ids, lengths, group)

    def _states(self, input_ids: Tensor, lengths: Tensor, group: Tensor) -> Tensor:
        trees = prompt_trees(input_ids, lengths, group)
        return masked_states(self.model, trees.input_ids, trees.position_ids, trees.sees)[trees.row, trees.column]

    def _keeps_apart(self) -> bool:
        """Whether five short sequences of two prompts have the states that they have alone, whatever is beside them."""
        device = next(self.model.parameters()).device
        # nn.Module declares no methods of transformers.
        vocabulary = int(self.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        ids = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0], [1, 2, 3, 6], [7, 8, 0, 0], [7, 9, 10, 0]], device=device)
        lengths, group = torch.tensor([4, 3, 4, 2, 3], device=device), torch.tensor([0, 0, 0, 1, 1], device=device)
        ids, others = ids * 7 % vocabulary, ids * 7 % vocabulary
        others[[0, 2], 2:] = (others[[0, 2], 2:] + 3) % vocabulary  # all but the second and the last two
        with generation_mode(self.model):
            alone = hidden_states(self.model, ids)[torch.arange(5, device=device), lengths - 1].float()
        try:
            with generation_mode(self.model):
                found = self._states(ids, lengths, group).float()
                beside_others = self._states(others, lengths, group).float()
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return False  # such a mask is not merely ignored here but not taken at all
        full = next(self.model.parameters()).dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
        scale = alone.abs().max().clamp(min=1e-6)
        same = (found - alone).abs().max() <= (1e-4 if full else 5e-2) * scale
        # The rounding of the two runs is the same, so that a leak shows in any dtype, however weak it is.
        unmoved = (found[[1, 3, 4]] - beside_others[[1, 3, 4]]).abs().max() <= 1e-6 * scale
        return bool(same and unmoved)
