from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_lightning.data import prepare_continuations
from rlhf_lightning.errors import UserError

NAMES = [f"{part}_{split}.jsonl" for part in ("text", "demonstrations", "prompts") for split in ("train", "heldout")]


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def prepare(folder: Path, text: str, **options: float | str) -> Path:
    (folder / "stories.txt").write_text(text)
    # Options of several types, by name.
    prepare_continuations(folder / "stories.txt", folder / "out", **options)  # type: ignore[arg-type]
    return folder / "out"


def test_story_ends_at_a_single_newline_and_not_at_a_blank_line(tmp_path: Path) -> None:
    out = prepare(tmp_path, "A. B.\n\nC. D.\nE. F. G.\n", heldout=0.5)
    stories = {row["text"] for name in NAMES[:2] for row in rows(out, name)}
    assert stories == {"A. B.\n\nC. D.", "E. F. G."}
    demonstrations = {tuple(row.items()) for name in NAMES[2:4] for row in rows(out, name)}
    assert demonstrations == {
        (("prompt", "A."), ("response", "B.\n\nC.")),
        (("prompt", "E."), ("response", "F. G.")),
    }


def test_sentences_with_speech_and_titles(tmp_path: Path) -> None:
    out = prepare(tmp_path, '"Hi, Mr. Fox!" she said. "Run!" He ran. All was well.\nA. B. C. D.\n', heldout=0.5)
    found = {row["prompt"]: row["response"] for name in NAMES[2:4] for row in rows(out, name)}
    assert found['"Hi, Mr. Fox!" she said.'] == '"Run!" He ran.'


def test_number_of_sentences_and_separator(tmp_path: Path) -> None:
    out = prepare(
        tmp_path, "A. B. C.\nD. E. F.\n", heldout=0.5, prompt_sentences=2, response_sentences=1, separator=" "
    )
    assert {row["response"] for name in NAMES[2:4] for row in rows(out, name)} == {" C.", " F."}


def test_stories_are_split_whole_and_doubles_count_once(tmp_path: Path) -> None:
    stories = [f"Once {i}. Then {i}. End {i}." for i in range(50)]
    out = prepare(tmp_path, "\n".join(stories + stories), heldout=0.2, seed=3)
    assert [len(rows(out, name)) for name in NAMES] == [40, 10] * 3
    train, heldout = ({row["text"] for row in rows(out, name)} for name in NAMES[:2])
    assert not train & heldout
    for split, some in (("train", train), ("heldout", heldout)):
        for row in rows(out, f"demonstrations_{split}.jsonl"):
            assert f"{row['prompt']} {row['response']}" in some
        prompts = [row["prompt"] for row in rows(out, f"demonstrations_{split}.jsonl")]
        assert [row["prompt"] for row in rows(out, f"prompts_{split}.jsonl")] == prompts


def test_same_seed_same_files(tmp_path: Path) -> None:
    text = "\n".join(f"Once {i}. Then {i}. End {i}." for i in range(20))
    first = {name: (prepare(tmp_path, text, seed=1) / name).read_bytes() for name in NAMES}
    assert first == {name: (prepare(tmp_path, text, seed=1) / name).read_bytes() for name in NAMES}
    assert first != {name: (prepare(tmp_path, text, seed=2) / name).read_bytes() for name in NAMES}


def test_short_stories_are_text_only(tmp_path: Path) -> None:
    out = prepare(tmp_path, "A. B. C.\nShort.\nD. E. F.\nG. H. I.\n", heldout=0.5)
    assert sum(len(rows(out, name)) for name in NAMES[:2]) == 4
    assert sum(len(rows(out, name)) for name in NAMES[2:4]) == 3


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        prepare_continuations(tmp_path / "no.txt", tmp_path / "out")
    with pytest.raises(UserError, match="none of the 0 heldout stories"):
        prepare(tmp_path, "A. B. C.\n")
    with pytest.raises(UserError, match=r"heldout must be between 0 and 1, not 1\.0"):
        prepare(tmp_path, "A. B. C.\n", heldout=1.0)
    with pytest.raises(UserError, match="at least 1, not 0 and 2"):
        prepare(tmp_path, "A. B. C.\n", prompt_sentences=0)
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        prepare_continuations(tmp_path / "latin.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.shared_data
def test_real_stories(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/pretrain/tinystories_944k.txt"
    prepare_continuations(source, tmp_path)
    text = source.read_text()
    assert all(row["text"] in text for name in NAMES[:2] for row in rows(tmp_path, name))
    assert len(rows(tmp_path, "demonstrations_train.jsonl")) > 700
    assert len(rows(tmp_path, "demonstrations_heldout.jsonl")) > 150
