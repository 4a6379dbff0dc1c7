"""Masks for FlexAttention, which skips the blocks of a mask in which nothing is seen."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from rlhf_lightning.models.context import text_config


def reads_block_masks(model: nn.Module) -> bool:
    """Whether a transformers model attends with FlexAttention (``attn_implementation="flex_attention"``).

    It takes a ``BlockMask`` as ``attention_mask`` and makes a score of each number of any other mask, which costs the
    gradient of s² numbers and skips nothing.
    """
    return getattr(text_config(model), "_attn_implementation", None) == "flex_attention"


def tree_block_mask(tree: Tensor, branch: Tensor) -> BlockMask:
    """The mask of :class:`~rlhf_lightning.functional.PromptTrees`, from s numbers a row instead of s².

    Shapes:
        tree, branch: [r, s].
    """

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = tree[row, query] == tree[row, key]
        shared_or_own = (branch[row, key] == 0) | (branch[row, query] == branch[row, key])
        return same & (query >= key) & shared_or_own

    rows, width = tree.shape
    # Compiled, the mask of all s² pairs never exists; elsewhere than on a GPU there is nothing to save.
    options = {"device": str(tree.device), "_compile": tree.is_cuda}
    return create_block_mask(sees, rows, None, width, width, **options)  # type: ignore[arg-type]  # of two kinds


def example_block_mask(position_ids: Tensor) -> BlockMask:
    """The mask of a pack: a token sees those of its own example that stand before it; positions [p, s] restart with
    each example."""
    example = (position_ids == 0).cumsum(1)
    return tree_block_mask(example, example.new_zeros(()).expand_as(example))
