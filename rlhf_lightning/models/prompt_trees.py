"""Hidden states of K completions with their prompt read once."""

from __future__ import annotations

import inspect
import logging
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import PromptTrees, prompt_trees
from rlhf_lightning.models.block_masks import reads_block_masks, tree_block_mask
from rlhf_lightning.models.context import check_context, text_config
from rlhf_lightning.models.forward import last_states, masked_states
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.sequence_attention import Trees, reads_layouts
from rlhf_lightning.models.shapes import missing_states

log = logging.getLogger(__name__)


class PromptTreeStates:
    """Hidden state at the last token of every sequence, where sequences of a group share their beginning.

    What a group begins with is read once (:func:`~rlhf_lightning.functional.prompt_trees`), under an attention mask
    in the shape of a tree; under ``attn_implementation="flex_attention"`` one of blocks, whose empty ones are skipped;
    with sdpa on a CPU as padded batches of beginnings and of what follows them (``models/sequence_attention.py``).
    Whether a model heeds what it is given is measured, not looked up: on a few tokens, whose states
    must be those of the sequences alone and must not change with their neighbours, and again on the batch at hand
    whenever a row of trees is longer than any before, since windows and buffers show only then. Batches that do not
    pass, and those with sequences beyond a sliding window, which a tree's mask would replace, are read sequence by
    sequence.

    Args:
        model: a transformers model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._apart = False  # whether attention takes trees as layouts instead of masks
        self._right = 0  # the longest row that was measured and found right
        self._wrong: float = math.inf  # the shortest that was not

    def check(self) -> None:
        """Measure on a few tokens, at the first call.

        Raises:
            UserError: positions are no input of the model (ALiBi, recurrent models), or its attention ignores masks.
        """
        if self._right:
            return
        name = type(self.model).__name__
        backbone: nn.Module = self.model.base_model  # type: ignore[assignment]  # a module, though torch does not say so
        if "position_ids" not in inspect.signature(backbone.forward).parameters:
            raise UserError(
                f"module.share_prompt: {name} takes no position ids, so completions cannot continue one prompt side by "
                "side; set module.share_prompt=false"
            )
        if self._window() < _LONGEST_PROBE:
            raise UserError(
                f"module.share_prompt: the sliding window of {name} is {self._window()} tokens, less than any prompt "
                "with a completion; set module.share_prompt=false"
            )
        self._apart = reads_layouts(self.model)
        if self._apart and not self._keeps_apart():
            self._apart = False
        if not self._apart and not self._keeps_apart():
            raise UserError(
                f"module.share_prompt: {name} with this attention does not keep the completions of a prompt apart; set "
                "module.share_prompt=false or another model.attn_implementation, such as sdpa"
            )
        self._right = 1

    def __call__(self, input_ids: Tensor, lengths: Tensor, group: Tensor) -> Tensor:
        """Hidden states [n, d].

        Shapes:
            input_ids: [n, s], right padded; lengths: [n]; group: [n], the prompt of each sequence.

        Raises:
            UserError: see :meth:`check`; a sequence longer than the model's context.
        """
        self.check()
        longest = int(lengths.max())
        check_context(self.model, longest)
        trees = prompt_trees(input_ids, lengths, group)
        width = trees.input_ids.shape[1]
        if longest <= self._window() and self._right < width < self._wrong:
            with generation_mode(self.model):
                alone = self._alone(input_ids, lengths)
            if self._is(alone, trees):
                self._right = width
            else:
                self._wrong = width
                log.warning(
                    "module.share_prompt: %s does not give rows of %d tokens and more the states of their sequences; "
                    "such batches are read sequence by sequence",
                    type(self.model).__name__,
                    width,
                )
        if longest > self._window() or width >= self._wrong:
            return self._alone(input_ids, lengths)
        return self._states(trees)

    def _window(self) -> float:
        window = getattr(text_config(self.model), "sliding_window", None)
        return float(window or math.inf)  # some configurations say 0 for none

    def _alone(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        return last_states(self.model, input_ids, lengths)

    def _states(self, trees: PromptTrees) -> Tensor:
        if self._apart:
            return self._states_apart(trees)
        flexible = reads_block_masks(self.model)
        sees = tree_block_mask(trees.tree, trees.branch) if flexible else trees.sees
        return masked_states(self.model, trees.input_ids, trees.position_ids, sees)[trees.row, trees.column]

    def _states_apart(self, trees: PromptTrees) -> Tensor:
        real = trees.tree >= 0
        ids, positions, tree, branch = (
            one[real] for one in (trees.input_ids, trees.position_ids, trees.tree, trees.branch)
        )
        if more := missing_states(ids, self.model):  # one more tree, of padding
            ids, positions, branch = (pad(one, (0, more)) for one in (ids, positions, branch))
            tree = pad(tree, (0, more), value=int(tree.max()) + 1)
        states = masked_states(self.model, ids.unsqueeze(0), positions.unsqueeze(0), Trees.of(tree, branch))[0]
        return states[(real.flatten().cumsum(0) - 1).view_as(real)[trees.row, trees.column]]

    def _is(self, alone: Tensor, trees: PromptTrees, *, others: PromptTrees | None = None) -> bool:
        """Whether the trees' states are those of the sequences alone, and those of the last three sequences do not
        change with ``others``."""
        alone = alone.float()
        device = alone.device
        full = next(self.model.parameters()).dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
        scale = alone.abs().max().clamp(min=1e-6)
        try:
            with generation_mode(self.model):
                found = self._states(trees).float()
                same = bool((found - alone).abs().max() <= (1e-3 if full else 1e-1) * scale)
                if others is None or not same:
                    return same
                # The rounding of the two runs is the same, so that a leak shows in any dtype, however weak it is.
                beside_others = self._states(others).float()
                return bool((found[-3:] - beside_others[-3:]).abs().max() <= 1e-6 * scale)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError, AttributeError):
            return False  # such a mask is not merely ignored here but not taken at all

    def _keeps_apart(self) -> bool:
        """The same of five short sequences of two prompts, whatever their neighbours are."""
        device = next(self.model.parameters()).device
        # nn.Module declares no methods of transformers.
        vocabulary = int(self.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 6], [1, 2, 5, 0], [7, 8, 0, 0], [7, 9, 10, 0]], device=device)
        lengths, group = torch.tensor([4, 4, 3, 2, 3], device=device), torch.tensor([0, 0, 0, 1, 1], device=device)
        ids, others = ids * 7 % vocabulary, ids * 7 % vocabulary
        others[:2, 2:] = (others[:2, 2:] + 3) % vocabulary  # the neighbours of the last three
        with generation_mode(self.model):
            alone = self._alone(ids, lengths)
        return self._is(alone, prompt_trees(ids, lengths, group), others=prompt_trees(others, lengths, group))


_LONGEST_PROBE = 4
