from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.data import Encoder, load_demonstrations, load_prompts
from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.errors import UserError

from .conftest import TEMPLATE, make_tokenizer


def ids(path: Path, encoder: Encoder) -> list[list[int]]:
    return load_prompts(path, encoder=encoder)["input_ids"][:]


def test_second_run_reads_the_ids_of_the_first(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids(letters, Encoder(make_tokenizer()))
    again = Encoder(make_tokenizer())
    monkeypatch.setattr(again, "tokenize", lambda texts: pytest.fail("encoded again"))
    assert ids(letters, again) == first


def test_encoded_rows_are_memory_mapped(letters: Path, encoder: Encoder) -> None:
    rows = load_prompts(letters, encoder=encoder)
    assert [Path(file["filename"]).suffix for file in rows.cache_files] == [".arrow"]


def test_another_tokenizer_or_template_is_encoded_anew(letters: Path) -> None:
    assert ids(letters, Encoder(make_tokenizer()))[0] == [1, 6]
    assert ids(letters, Encoder(make_tokenizer(adds_bos=False)))[0] == [6]
    assert ids(letters, Encoder(make_tokenizer(template=TEMPLATE)))[0] == [1, 4, 6, 5]
    assert ids(letters, Encoder(make_tokenizer(template=TEMPLATE), system="a"))[0] == [1, 3, 6, 4, 6, 5]


def test_changed_file_is_encoded_anew(write: Callable[..., Path], encoder: Encoder) -> None:
    assert ids(write("a.jsonl", {"prompt": "a"}), encoder) == [[1, 6]]
    assert ids(write("a.jsonl", {"prompt": "b"}), encoder) == [[1, 7]]


def test_prompts_and_demonstrations_of_one_file_are_kept_apart(letters: Path, encoder: Encoder) -> None:
    assert ids(letters, encoder)[0] == [1, 6]
    assert load_demonstrations(letters, encoder=encoder)["input_ids"][0] == [1, 6, 6, 2]
    assert ids(letters, encoder)[0] == [1, 6]


def test_changed_code_is_not_served_older_results(
    letters: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_lightning.data import preparation

    ids(letters, encoder)
    monkeypatch.setattr(preparation, "_code", lambda: "another version")
    monkeypatch.setattr(encoder, "open", lambda ids: [9])
    assert ids(letters, encoder)[0] == [9]


def test_row_over_the_limit_is_named_with_its_length(write: Callable[..., Path], encoder: Encoder) -> None:
    good = write("good.jsonl", {"prompt": "a"})
    bad = write("bad.jsonl", {"prompt": "a"}, {"prompt": "a b c"})
    with pytest.raises(UserError) as error:
        load_prompts([good, bad], encoder=encoder, max_length=3)
    assert str(error.value) == (
        f"{bad}, line 2: the prompt's tokens have length 4 and the limit is 3: "
        "set data.overlong=drop or raise data.max_prompt_length"
    )


def test_rows_over_the_limit_are_dropped_on_demand_and_reported(
    write: Callable[..., Path], encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    path = write("a.jsonl", {"prompt": "a b c"}, {"prompt": "a"}, {"prompt": "a b"})
    with caplog.at_level(logging.INFO):
        rows = load_prompts(path, encoder=encoder, max_length=3, overlong="drop")
    assert rows["prompt"][:] == ["a", "a b"]
    assert f"{path}: 1 of 3 rows over 3 tokens dropped" in caplog.text


def test_no_row_within_the_limit_is_an_error(letters: Path, encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"all 10 rows are over the limit of 1 tokens: raise data.max_prompt_length"):
        load_prompts(letters, encoder=encoder, max_length=1, overlong="drop")


def test_unknown_choice_for_overlong_is_an_error(letters: Path, encoder: Encoder) -> None:
    with pytest.raises(UserError, match="overlong must be error, drop, keep_start or keep_end, not 'cut'"):
        load_prompts(letters, encoder=encoder, overlong="cut")


def test_digest_is_of_the_content(write: Callable[..., Path]) -> None:
    one, two, three = (write(f"{i}.jsonl", {"prompt": word}) for i, word in enumerate("aab"))
    digests = [source.digest for source in load_sources([one, two, three], fields=("prompt",))]
    assert digests[0] == digests[1] != digests[2]
