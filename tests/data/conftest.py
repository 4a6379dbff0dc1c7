"""A tiny tokenizer, files and data folders for the tests of rlhf_lightning.data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlhf_lightning.data import Encoder

WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "user:",
    "assistant:",
    *["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"],
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make_tokenizer(
    *, adds_bos: bool = True, pad: str | None = "<pad>", template: str | None = None
) -> PreTrainedTokenizerFast:
    """One token per word: <pad> 0, <s> 1, </s> 2, <unk> 3, user: 4, assistant: 5, a to j 6 to 15."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token=pad,
        chat_template=template,
    )


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(make_tokenizer())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write("name.jsonl", row, row, ...) -> path."""

    def write_file(name: str, *rows: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write_file


@pytest.fixture
def letters(write: Callable[..., Path]) -> Iterator[Path]:
    """Ten demonstrations a -> a, b -> b, ..., j -> j."""
    return write("letters.jsonl", *({"prompt": letter, "response": letter} for letter in "abcdefghij"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, which is not part of the repository."""
    folder = Path(os.environ.get("RLHF_SHARED", Path(__file__).parents[3] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}: set RLHF_SHARED")
    return folder
