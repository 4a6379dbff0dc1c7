"""From local files to batches: one encoder, memory-mapped tables, resumable streams."""

from rlhf_lightning.data.card import data_card, write_data_card
from rlhf_lightning.data.collate import (
    ComparisonBatch,
    PromptBatch,
    TokenBatch,
    collate_comparisons,
    collate_prompts,
    collate_tokens,
    pairs_from_ranks,
)
from rlhf_lightning.data.comparisons import ComparisonDataModule, load_comparisons
from rlhf_lightning.data.continuation import prepare_continuations
from rlhf_lightning.data.demonstrations import DemonstrationDataModule, load_demonstrations
from rlhf_lightning.data.dialogues import Prompt
from rlhf_lightning.data.encode import Encoder
from rlhf_lightning.data.hygiene import PersonalDataFilter, PromptHygiene
from rlhf_lightning.data.labeling import Labeler, ScoreLabeler, VaderSentiment
from rlhf_lightning.data.loader import StreamLoader, stream_loader
from rlhf_lightning.data.packing import PackedBatch, collate_packs, fill_packs
from rlhf_lightning.data.prompts import PromptDataModule, load_prompts
from rlhf_lightning.data.rankings import Comparison, read_comparison
from rlhf_lightning.data.sampling import StreamBatchSampler
from rlhf_lightning.data.sources import load_rows
from rlhf_lightning.data.text import TextBlocks, TextDataModule, load_blocks
from rlhf_lightning.data.writing import whole_file, write_rows

__all__ = [
    "Comparison",
    "ComparisonBatch",
    "ComparisonDataModule",
    "DemonstrationDataModule",
    "Encoder",
    "Labeler",
    "PackedBatch",
    "PersonalDataFilter",
    "Prompt",
    "PromptBatch",
    "PromptDataModule",
    "PromptHygiene",
    "ScoreLabeler",
    "StreamBatchSampler",
    "StreamLoader",
    "TextBlocks",
    "TextDataModule",
    "TokenBatch",
    "VaderSentiment",
    "collate_comparisons",
    "collate_packs",
    "collate_prompts",
    "collate_tokens",
    "data_card",
    "fill_packs",
    "load_blocks",
    "load_comparisons",
    "load_demonstrations",
    "load_prompts",
    "load_rows",
    "pairs_from_ranks",
    "prepare_continuations",
    "read_comparison",
    "stream_loader",
    "whole_file",
    "write_data_card",
    "write_rows",
]
