"""K completions of one prompt as one sequence in which the prompt stands once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PromptTrees(NamedTuple):
    """Rows of trees: a shared beginning, then what each sequence goes on with.

    Shapes: input_ids, position_ids: [r, s], 0 where there is padding; tree: [r, s], the tree of each token, −1 where
    there is padding; branch: [r, s], its sequence, counted from 1, or 0 in a shared beginning; row, column: [n], where
    the last token of each sequence stands.
    """

    input_ids: Tensor
    position_ids: Tensor
    tree: Tensor
    branch: Tensor
    row: Tensor
    column: Tensor

    @property
    def sees(self) -> Tensor:
        """[r, s, s], bool, ``sees[:, i, j]``: token i attends to token j."""
        within = (self.tree.unsqueeze(2) == self.tree.unsqueeze(1)).tril()
        return within & ((self.branch.unsqueeze(1) == 0) | (self.branch.unsqueeze(2) == self.branch.unsqueeze(1)))


def prompt_trees(input_ids: Tensor, lengths: Tensor, group: Tensor) -> PromptTrees:
    """Join the sequences of each group: what all of them begin with is written once, positions restart after it.

    A token sees what stands before it in its own sequence and nothing else, so that under causal attention its hidden
    state is the one it has in that sequence alone. What is shared is found in the ids; at least the last token of each
    sequence is its own. Trees share rows so that rows are about as long as the longest tree.

    Shapes:
        input_ids: [n, s], right padded; lengths: [n]; group: [n], the prompt of each sequence, a number from 0 on.
    """
    count, width = input_ids.shape
    device = input_ids.device
    column = torch.arange(width, device=device)
    group = torch.unique(group, return_inverse=True)[1]  # 0..g−1 without gaps
    first = _first_of(group)
    same = (input_ids == input_ids[first[group]]) & (column < lengths.unsqueeze(1))
    alike = same.int().cumprod(1).sum(1).minimum(lengths - 1)
    shared = alike.new_full((len(first),), width).scatter_reduce(0, group, alike, "amin")
    own = lengths - shared[group]
    trees = shared.scatter_add(0, group, own)

    # Where each sequence's own tokens begin: behind those of the sequences of its group that come before it.
    order = torch.argsort(group, stable=True)
    before = torch.zeros_like(own)
    before[order] = own[order].cumsum(0) - own[order]
    before -= before[first[group]]
    tree_row, tree_start, rows, longest = _placed(trees)
    start = tree_start[group] + before

    begins = column < shared[group].unsqueeze(1)
    leads = torch.arange(count, device=device) == first[group]
    is_own = ~begins & (column < lengths.unsqueeze(1))
    is_shared = begins & leads.unsqueeze(1)
    sequence, source = (is_own | is_shared).nonzero(as_tuple=True)
    mine = is_own[sequence, source]
    target = torch.where(mine, start[sequence], tree_start[group[sequence]]) + source
    place = tree_row[group[sequence]], target

    def laid_out(values: Tensor, fill: int) -> Tensor:
        return values.new_full((rows, longest), fill).index_put(place, values)

    return PromptTrees(
        laid_out(input_ids[sequence, source], 0),
        laid_out(source, 0),
        laid_out(group[sequence], -1),
        laid_out(torch.where(mine, sequence + 1, 0), 0),
        tree_row[group],
        start + lengths - 1,
    )


def _first_of(group: Tensor) -> Tensor:
    """Index [g] of the first member of each group."""
    groups = int(group.max()) + 1
    index = torch.arange(len(group), device=group.device)
    return index.new_full((groups,), len(group)).scatter_reduce(0, group, index, "amin")


def _placed(lengths: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Row and start of each tree, the number of rows and the longest row: the longest trees first, each into the row
    that is shortest so far."""
    sizes = lengths.tolist()
    filled = [0] * max(1, -(-sum(sizes) // max(sizes)))
    row, start = [0] * len(sizes), [0] * len(sizes)
    for tree in sorted(range(len(sizes)), key=lambda tree: -sizes[tree]):
        row[tree] = min(range(len(filled)), key=lambda one: filled[one])
        start[tree] = filled[row[tree]]
        filled[row[tree]] += sizes[tree]
    placed = torch.tensor([row, start], device=lengths.device)
    return placed[0], placed[1], len(filled), max(filled)
