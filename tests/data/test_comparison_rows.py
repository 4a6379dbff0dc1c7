from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import ComparisonDataModule, Encoder
from rlhf_lightning.errors import UserError

from .conftest import TEMPLATE, make_tokenizer


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def loaded(path: Any, **options: Any) -> ComparisonDataModule:
    options.setdefault("encoder", Encoder(make_tokenizer(template=TEMPLATE)))
    data = ComparisonDataModule(train=path, **options)
    data.setup()
    return data


def row(data: ComparisonDataModule, index: int = 0) -> tuple[list[int], list[list[int]], list[list[int]]]:
    found = data.train_rows[index]
    return found["prompt_ids"], found["response_ids"], found["pairs"]


HH = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c d"}


@pytest.mark.parametrize(
    "entry",
    [
        HH,
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c d")]},
        {"prompt": "a", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c d")]},
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c d")]},
        {"prompt": [user("a")], "chosen": "b", "rejected": "c d"},
        {"prompt": "a", "chosen": "b", "rejected": "c d"},
        {"question": "a", "chosen": "b", "rejected": "c d"},
        {"instruction": "a", "input": "", "output_1": "b", "output_2": "c d", "preference": 1},
        {"prompt": "a", "responses": ["b", "c d"], "scores": [1.5, -2]},
        {"prompt": "a", "responses": ["b", "c d"], "scores": [True, False]},
        {"prompt": "a", "responses": [[assistant("b")], [assistant("c d")]], "choice": 0},
        {"prompt": "a", "baseline": "b", "responses": ["c d"], "preferences": [1]},
    ],
)
def test_every_shape_gives_the_same_comparison(write: Callable[..., Path], entry: dict[str, Any]) -> None:
    assert row(loaded(write("a.jsonl", entry))) == ([1, 4, 6, 5], [[7, 2], [8, 9, 2]], [[0, 1]])


def test_pairs_of_different_prompts_are_dropped_with_a_count(write: Callable[..., Path]) -> None:
    other = {**HH, "rejected": "\n\nHuman: e\n\nAssistant: c d"}
    longer = {**HH, "rejected": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c"}  # not even roles in order
    data = loaded(write("a.jsonl", HH, other, longer, HH))
    assert data.counts["different_prompts_dropped"] == 2
    assert data.counts["rows"] == len(data.train_rows) == 2


def test_dialogue_of_several_turns_has_all_but_the_last_as_prompt(write: Callable[..., Path]) -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    prompt, responses, _ = row(loaded(write("a.jsonl", {"chosen": f"{start}d", "rejected": f"{start}e"})))
    assert prompt == [1, 4, 6, 5, 7, 4, 8, 5]
    assert responses == [[9, 2], [10, 2]]


def test_star_of_one_baseline(write: Callable[..., Path]) -> None:
    star = {"prompt": "a", "baseline": "b", "responses": ["c", "d", "e"], "preferences": [2, 1, 0]}
    data = loaded(write("a.jsonl", star))
    assert row(data) == ([1, 4, 6, 5], [[7, 2], [8, 2], [9, 2], [10, 2]], [[1, 0], [0, 2]])
    assert (data.counts["pairs"], data.counts["tied_pairs"]) == (2, 1)


def test_annotators_each_or_by_majority(write: Callable[..., Path]) -> None:
    votes = [
        {"instruction": "a", "output_1": "b", "output_2": "c", "preference": [2, 1, 2]},
        {"instruction": "d", "output_1": "b", "output_2": "c", "preference": [1, 2]},
    ]
    path = write("a.jsonl", *votes)
    each, majority = loaded(path), loaded(path, annotators="majority")
    assert [row(each, i)[2] for i in range(2)] == [[[1, 0], [0, 1], [1, 0]], [[0, 1], [1, 0]]]
    assert row(majority)[2] == [[1, 0]]
    assert len(majority.train_rows) == majority.counts["tied_rows_skipped"] == majority.counts["tied_pairs"] == 1
    with pytest.raises(UserError, match="annotators must be majority or each, not 'mean'"):
        loaded(path, annotators="mean")


def test_annotators_in_rows_of_their_own_are_brought_together_for_the_majority(write: Callable[..., Path]) -> None:
    pair = {"instruction": "a", "input": "", "output_1": "b", "output_2": "c"}
    other = {**pair, "output_2": "d", "preference": 1, "annotator": "x"}
    votes = [{**pair, "preference": vote, "annotator": f"{i}"} for i, vote in enumerate([2, 1, 2])]
    path = write("a.jsonl", {**pair, "preference": None}, votes[0], other, *votes[1:])
    with pytest.raises(UserError, match="line 1: neither ranks nor"):
        loaded(path, annotators="majority")
    assert loaded(path, on_bad_row="skip").counts["pairs"] == 4
    for _ in range(2):  # the second time from the cache
        data = loaded(path, annotators="majority", on_bad_row="skip")
        assert [row(data, i)[1:] for i in range(2)] == [([[7, 2], [8, 2]], [[1, 0]]), ([[7, 2], [9, 2]], [[0, 1]])]
        assert (data.counts["rows"], data.counts["rows_merged"], data.counts["tied_pairs"]) == (2, 2, 0)


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
TURNED = {"prompt": "a", "chosen": "c", "rejected": "b"}
OUTPUTS = {"instruction": "a", "output_1": "b", "output_2": "c"}


@pytest.mark.parametrize(
    "votes",
    [
        [PAIR, PAIR, TURNED],
        [{**OUTPUTS, "preference": 1}, {**OUTPUTS, "output_1": "c", "output_2": "b", "preference": 2}, TURNED],
        [{"prompt": "a", "responses": ["b", "c"], "ranks": ranks} for ranks in ([1, 2], [1, 2], [2, 1])],
        [{"prompt": "a", "responses": ["b", "c"], "scores": scores} for scores in ([2, 1], [1, 1], [3, 2])],
        [{"prompt": "a", "responses": ["c", "b"], "pairs": [pair]} for pair in ([1, 0], [1, 0], [0, 1])],
        [{"chosen": f"\n\nHuman: a\n\nAssistant: {best}", "rejected": f"\n\nHuman: a\n\nAssistant: {worst}"}
         for best, worst in ("bc", "cb", "bc")],
    ],
)  # fmt: skip  # a line for each form
def test_majority_of_rows_in_every_form(write: Callable[..., Path], votes: list[dict[str, Any]]) -> None:
    shape = [vote for vote in votes if set(vote) == set(votes[0])]
    data = loaded(write("a.jsonl", *shape), annotators="majority")
    assert row(data) == ([1, 4, 6, 5], [[7, 2], [8, 2]], [[0, 1]])
    assert data.counts["rows_merged"] == len(shape) - 1
    assert (data.counts["rows"], data.counts["pairs"], data.counts["tied_pairs"]) == (1, 1, 0)
    assert loaded(write("a.jsonl", *shape)).counts["rows"] >= len(shape) - 1


def test_even_annotators_are_a_tie_pair_by_pair(write: Callable[..., Path]) -> None:
    ranks = [[1, 2, 3], [2, 1, 3], [1, 1, 2]]
    votes = [{"prompt": "a", "responses": ["b", "c", "d"], "ranks": entry} for entry in ranks]
    other = {"prompt": "e", "responses": ["b", "c", "d"], "ranks": [3, 2, 1]}
    data = loaded(write("a.jsonl", votes[0], other, *votes[1:]), annotators="majority")
    assert [row(data, i)[2] for i in range(2)] == [[[0, 2], [1, 2]], [[1, 0], [2, 0], [2, 1]]]
    assert (data.counts["rows_merged"], data.counts["tied_pairs"]) == (2, 1)


def test_identical_responses_are_a_tie(write: Callable[..., Path]) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "b"}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    data = loaded(write("a.jsonl", *rows))
    assert data.counts == {
        "rows": 1,
        "pairs": 1,
        "tied_rows_skipped": 1,
        "tied_pairs": 1,
        "identical_pairs_tied": 1,
        "overlong_rows_dropped": 0,
    }
    several = {"prompt": "a", "responses": ["b", "b", "c"], "ranks": [1, 2, 3]}
    assert row(loaded(write("b.jsonl", several)))[2] == [[0, 2], [1, 2]]
    cut = {"prompt": "a", "responses": ["b", "b"], "ranks": [1, 2], "finished": [True, False]}
    assert row(loaded(write("c.jsonl", cut)))[1:] == ([[7, 2], [7]], [[0, 1]])
    with pytest.raises(UserError, match="all completions are tied in all 1 rows"):
        loaded(write("d.jsonl", rows[0]))


def test_columns_name_solutions_and_whether_they_are_right(write: Callable[..., Path]) -> None:
    solutions = {"one": ("b", True), "two": ("c", False), "three": ("d", True)}
    entry = {name: {"text": text, "is_correct": right} for name, (text, right) in solutions.items()}
    data = loaded(
        write("a.jsonl", {"question": "a", **entry}), columns={"responses": "*.text", "scores": "*.is_correct"}
    )
    assert row(data) == ([1, 4, 6, 5], [[7, 2], [8, 2], [9, 2]], [[0, 1], [2, 1]])
    assert data.counts["tied_pairs"] == 1


BAD = [
    ({"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2, 3]}, "ranks", "ranks must be 2 numbers"),
    ({"prompt": "a", "responses": ["b"], "ranks": [1]}, "one_response", "K = 1 completions"),
    ({"prompt": "", "responses": ["b", "c"], "ranks": [1, 2]}, "empty_text", "the field 'prompt' is empty"),
    ({"prompt": "a", "responses": ["b", ""], "ranks": [1, 2]}, "empty_text", "completion 2 of 2 is empty"),
    ({"prompt": "a", "responses": ["b", None], "ranks": [1, 2]}, "missing_or_null", "every completion must be text"),
    ({"prompt": "a", "responses": None, "ranks": [1, 2]}, "missing_or_null", "no completions"),
    ({"prompt": "a", "responses": ["b", "c"], "ranks": None}, "ranks", "neither ranks nor"),
]
GOOD = {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}


@pytest.mark.parametrize(("entry", "reason", "problem"), BAD)
def test_bad_row_is_named_or_skipped_with_a_count(
    write: Callable[..., Path], entry: dict[str, Any], reason: str, problem: str
) -> None:
    path = write("a.jsonl", GOOD, GOOD, entry)
    with pytest.raises(UserError) as error:
        loaded(path)
    assert str(error.value).startswith(f"{path}, line 3: {problem}")
    counts = loaded(path, on_bad_row="skip").counts
    assert (counts["rows"], counts[f"skipped_{reason}"]) == (2, 1)


def test_hh_dialogues_out_of_order_are_bad_rows(write: Callable[..., Path]) -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nAssistant: "
    path = write("a.jsonl", HH, {"chosen": f"{start}d", "rejected": f"{start}e"}, {**HH, "chosen": "b"})
    with pytest.raises(UserError, match=r"line 2: roles out of order in 'chosen': user, assistant, assistant"):
        loaded(path)
    counts = loaded(path, on_bad_row="skip").counts
    assert (counts["rows"], counts["skipped_roles"], counts["skipped_wrong_type"]) == (1, 1, 1)


def test_responses_cut_to_the_same_become_a_tie(write: Callable[..., Path], encoder: Encoder) -> None:
    path = write(
        "a.jsonl",
        {"prompt": "a", "responses": ["b c d", "b c e", "b"], "ranks": [1, 2, 3]},
        {"prompt": "a", "chosen": "b c d", "rejected": "b c e"},
        {"prompt": "a b c", "chosen": "d", "rejected": "e"},
    )
    data = loaded(path, encoder=encoder, max_length=4, overlong="keep_start")
    assert row(data) == ([1, 6], [[7, 8], [7, 8], [7, 2]], [[0, 2], [1, 2]])
    assert data.counts == {
        "rows": 1,
        "pairs": 2,
        "tied_rows_skipped": 1,
        "tied_pairs": 2,
        "overlong_rows_dropped": 1,
        "pairs_cut_to_ties": 2,
        "overlong_rows_cut": 1,
    }


def test_prompts_lose_their_start_so_that_the_longest_response_fits(
    write: Callable[..., Path], encoder: Encoder
) -> None:
    path = write("a.jsonl", {"prompt": "a b c", "chosen": "d e", "rejected": "f"})
    data = loaded(path, encoder=encoder, max_length=5, overlong="keep_end")
    assert row(data)[:2] == ([1, 8], [[9, 10, 2], [11, 2]])


@pytest.mark.shared_data
def test_real_dialogues_as_published(shared: Path) -> None:
    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    path = shared / "data/pref/hh_harmless_base_test.jsonl.gz"
    data = ComparisonDataModule(encoder=encoder, train=path, on_bad_row="skip")
    data.setup()
    counts = data.counts
    assert (counts["rows"], counts["different_prompts_dropped"], counts["skipped_roles"]) == (2299, 5, 4)
    assert counts["skipped_empty_text"] == 4  # an empty last answer
    assert sum(data.train_rows[:2]["prompt_ids"][0].count(i) for i in [encoder.bos_token_id]) == 1


@pytest.mark.shared_data
def test_real_solutions_as_published(shared: Path) -> None:
    encoder = Encoder.from_pretrained(shared / "models" / "stories260k")
    path = shared / "data/pref/gsm8k_example_model_solutions.jsonl"
    columns = {"responses": "*.solution", "scores": "*.is_correct"}
    data = ComparisonDataModule(encoder=encoder, train=path, columns=columns)
    data.setup()
    assert data.counts["rows"] + data.counts["tied_rows_skipped"] == 1319
    assert data.counts["pairs"] + data.counts["tied_pairs"] == 6 * 1319
