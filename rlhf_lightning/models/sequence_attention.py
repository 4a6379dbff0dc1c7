"""Attention of sequences that share a row, each for itself, under torch's fused attention (sdpa).

Everything in a transformer but attention reads tokens one by one, so that sequences can stand in one row without
padding. For attention they are laid out as padded batches of like length and put back: it costs what it costs in such
batches, where a mask that keeps the sequences of a row of n tokens apart costs the attention of n² pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlhf_lightning.models.context import text_config
from rlhf_lightning.models.few_batches import FewBatches
from rlhf_lightning.models.row_layouts import batch_of, laid_out, places, put_back
from rlhf_lightning.models.sdpa import Attention, teach_sdpa

# What share of the longest sequence of a padded batch the shortest has at least: attention over padding costs little
# where sequences are short, and a batch more costs as much.
_ALIKE, _SHORT, _ALIKE_SHORT = 0.8, 128, 0.5
# What a configuration calls an attention that does not see all that stands before it.
_PARTIAL = ("sliding_window", "attention_chunk_size", "keep_window_size", "index_topk")


def reads_layouts(model: nn.Module) -> bool:
    """Whether a transformers model takes the layouts of this module: it attends with sdpa, on a CPU, where the shapes
    of a layout are known without waiting, and every token may see all before it, since no window of its own would be
    kept. Some do not hand what they are given to their attention, so who calls this measures."""
    config = text_config(model)
    on_cpu = next(model.parameters()).device.type == "cpu"
    full = {*(getattr(config, "layer_types", None) or ())} <= {"full_attention"}
    full = full and not any(getattr(config, name, None) for name in _PARTIAL)
    return on_cpu and full and getattr(config, "_attn_implementation", None) == "sdpa"


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences one behind the other in a row of n tokens, as padded batches.

    Shapes: batches: rows and width of each; source: [Σ rows · width], the token in each place of the batches, n where
    there is none; place: [n], the place of each token.

    ``few_batches`` is what compiled passes attend in, whose shapes must not differ from batch to batch.
    """

    batches: list[tuple[int, int]]
    source: Tensor
    place: Tensor
    few_batches: FewBatches | None = None

    @classmethod
    def of(cls, lengths: Tensor, *, behind: int = 0, compiled: bool = False) -> Sequences:
        """Of sequences with ``lengths`` [b], and so many tokens behind them whose states nobody reads; ``compiled`` for
        passes that are."""
        all_lengths = pad(lengths, (0, 1), value=behind) if behind else lengths
        starts, count = all_lengths.cumsum(0) - all_lengths, int(all_lengths.sum())
        batches, source = _padded(starts, all_lengths, count)
        return cls(batches, source, places(source, count), FewBatches.of(lengths, count) if compiled else None)

    def attend(self, attention: Attention, module: nn.Module, states: list[Tensor], options: Any) -> Tensor:
        """The outputs [1, n, h, d] of ``attention`` on queries, keys and values [1, h, n, d]."""
        query, key, value = (laid_out(one, self.batches, self.source, self.place) for one in states)
        parts = [
            attention(module, *one, None, is_causal=True, **options)[0] for one in zip(query, key, value, strict=True)
        ]
        return put_back(parts, self.source, self.place)


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees one behind the other in a row of n tokens: a beginning, then what each of its sequences goes on with.

    Shapes: batches, source, place: as of :class:`Sequences`, the first batch that of the g beginnings; trees: [m] for
    each further batch of m continuations, which beginning is theirs; sees: [m, 1, c, p + c], bool, likewise, which
    tokens of the beginning and of their own they attend to.
    """

    batches: list[tuple[int, int]]
    source: Tensor
    place: Tensor
    trees: list[Tensor]
    sees: list[Tensor]
    few_batches: None = None  # compiled passes leave what is compiled for each attention

    @classmethod
    def of(cls, tree: Tensor, branch: Tensor) -> Trees:
        """Of a row of trees (:class:`~rlhf_lightning.functional.PromptTrees`) without padding.

        Shapes:
            tree, branch: [n].
        """
        count = len(tree)
        _, changes = torch.unique_consecutive(torch.stack([tree, branch]), dim=1, return_counts=True)
        starts = changes.cumsum(0) - changes
        beginning = branch[starts] == 0
        # A tree whose sequences share nothing has no beginning: one of length 0 is put in its place.
        numbers = torch.unique(tree[starts])
        begins, shared = starts.new_zeros(len(numbers)), changes.new_zeros(len(numbers))
        of_tree = torch.searchsorted(numbers, tree[starts])
        begins[of_tree[beginning]], shared[of_tree[beginning]] = starts[beginning], changes[beginning]
        batch, source = _batch(begins, shared, count)
        batches, sources, trees, sees = [batch], [source], [], []
        own, lengths, owner = starts[~beginning], changes[~beginning], of_tree[~beginning]
        for rows in _alike(lengths):
            batch, source = _batch(own[rows], lengths[rows], count)
            batches.append(batch)
            sources.append(source)
            trees.append(owner[rows])
            width, columns = batch[1], torch.arange(batches[0][1])
            before = (columns < shared[owner[rows]].unsqueeze(1)).unsqueeze(1).expand(-1, width, -1)
            causal = torch.ones(width, width, dtype=torch.bool).tril().expand(len(rows), -1, -1)
            sees.append(torch.cat([before, causal], 2).unsqueeze(1))
        source = torch.cat(sources)
        return cls(batches, source, places(source, count), trees, sees)

    def attend(self, attention: Attention, module: nn.Module, states: list[Tensor], options: Any) -> Tensor:
        """As :meth:`Sequences.attend`."""
        query, key, value = (laid_out(one, self.batches, self.source, self.place) for one in states)
        first = (query[0], key[0], value[0])
        parts = [attention(module, *first, None, is_causal=True, **options)[0]] if self.batches[0][1] else []
        for number, (tree, sees) in enumerate(zip(self.trees, self.sees, strict=True), start=1):
            keys, values = (torch.cat([one[0].index_select(0, tree), one[number]], 2) for one in (key, value))
            parts.append(attention(module, query[number], keys, values, sees, is_causal=False, **options)[0])
        return put_back(parts, self.source, self.place)


Layout = Sequences | Trees


def attention_arguments(layout: Layout) -> dict[str, Any]:
    """What a model that :func:`reads_layouts` is given beside token ids and positions [1, n]."""
    teach_sdpa()
    # A mask of four dimensions is handed on as it is, so that none is made.
    return {"attention_mask": torch.zeros(1, 1, 1, 1), "sequence_layout": layout}


def _alike(lengths: Tensor) -> list[Tensor]:
    """The sequences of each padded batch: neighbours in length, longest first."""
    order = torch.argsort(lengths, descending=True, stable=True)
    ordered = lengths[order].tolist()
    cuts, longest = [0], ordered[0] if ordered else 0
    for number, length in enumerate(ordered):
        if length < (_ALIKE_SHORT if longest <= _SHORT else _ALIKE) * longest:
            cuts.append(number)
            longest = length
    return [order[one:other] for one, other in pairwise([*cuts, len(ordered)])]


def _batch(starts: Tensor, lengths: Tensor, count: int) -> tuple[tuple[int, int], Tensor]:
    """Rows and width of one padded batch, and its sources; ``count`` stands for none."""
    width = int(lengths.max()) if len(lengths) else 0
    return (len(lengths), width), batch_of(starts, lengths, count, width).flatten()


def _padded(starts: Tensor, lengths: Tensor, count: int) -> tuple[list[tuple[int, int]], Tensor]:
    found = [_batch(starts[rows], lengths[rows], count) for rows in _alike(lengths)]
    return [batch for batch, _ in found], torch.cat([source for _, source in found])
