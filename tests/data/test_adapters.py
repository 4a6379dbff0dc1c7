from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data.adapters import (
    helpsteer2,
    oasst_comparisons,
    oasst_demonstrations,
    oasst_prompts,
    summarize_comparisons,
    wikitext_articles,
)
from rlhf_lightning.data.sources import load_sources
from rlhf_lightning.errors import UserError

FIXTURES = Path(__file__).parent / "fixtures"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_summaries_are_ordered_by_choice() -> None:
    first, second, news = summarize_comparisons(rows("summarize_from_feedback"))
    assert first == {
        "prompt": "SUBREDDIT: r/books\n\nTITLE: a title\n\nPOST: i read a long book and liked it.\n\nTL;DR:",
        "chosen": " read a long book, liked it.",
        "rejected": " book was long.",
        "labeler": "w1",
    }
    assert second["chosen"] == " the cat sleeps all day."
    assert news["prompt"] == "Article:\na bridge was built.\n\nTL;DR:"


def test_prompts_of_summaries_have_the_form_of_the_prompts_data() -> None:
    first, *_ = summarize_comparisons(rows("summarize_from_feedback"))
    post = rows("tldr_prompts")[0]["prompt"]
    labels = ["SUBREDDIT: r/", "TITLE: ", "POST: ", "TL;DR:"]
    for prompt in (first["prompt"], post):
        parts = prompt.split("\n\n")
        assert len(parts) == 4
        assert all(part.startswith(label) for part, label in zip(parts, labels, strict=True))


def test_answers_of_one_prompt_are_joined_with_their_scores() -> None:
    found = list(helpsteer2(rows("helpsteer2")))
    assert found[:3] == [
        {"prompt": said("what is snow?"), "responses": ["frozen water.", "a bird."], "scores": [4, 0]},
        {"prompt": said("name a tree."), "responses": ["an oak.", "a beech."], "scores": [3, 3]},
        {"prompt": said("name a town."), "responses": ["a car.", "one town."], "scores": [1, 2]},
    ]
    turns = [*said("name a fish."), {"role": "assistant", "content": "a pike."}, *said("another one?")]
    assert found[3:] == [{"prompt": turns, "responses": ["a carp.", "no."], "scores": [4, 1]}]


def test_the_best_path_of_a_tree_ends_with_an_answer() -> None:
    first, second = oasst_demonstrations(rows("oasst2"))
    assert [message["content"] for message in first["messages"]] == [
        "what is a star?",
        "a far sun.",
        "how far?",
        "very far away.",
    ]
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"] * 2
    assert [message["content"] for message in second["messages"]] == ["name a river.", "the danube."]


def test_every_ranked_set_of_answers_is_a_comparison_with_its_conversation() -> None:
    found = sorted(oasst_comparisons(rows("oasst2")), key=lambda row: len(row["prompt"]))
    assert found[0] == {
        "prompt": [{"role": "user", "content": "what is a star?"}],
        "responses": ["a far sun.", "a fish."],
        "ranks": [0, 1],
    }
    assert [message["content"] for message in found[1]["prompt"]] == ["what is a star?", "a far sun.", "how far?"]
    assert found[1]["responses"] == ["light needs years.", "very far away."]
    assert found[1]["ranks"] == [1, 0]
    assert len(found) == 2


def test_messages_of_a_tree_need_not_be_neighbours() -> None:
    mixed = rows("oasst2")[::-1]
    paths = [[message["content"] for message in row["messages"]] for row in oasst_demonstrations(mixed)]
    assert paths[1] == ["what is a star?", "a far sun.", "how far?", "very far away."]


def test_first_messages_are_prompts_with_their_authors() -> None:
    assert list(oasst_prompts(rows("oasst2"))) == [
        {"prompt": "what is a star?", "user": "u-a"},
        {"prompt": "name a river.", "user": "u-b"},
    ]


def test_lines_of_wikitext_are_joined_to_articles() -> None:
    assert [row["text"] for row in wikitext_articles(rows("wikitext"))] == [
        " = a river = \n\n the river is long . \n\n = = course = = \n\n it flows south . ",
        " = a town = \n\n the town is small . ",
    ]


def test_an_adapted_source_is_kept_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"path": str(FIXTURES / "helpsteer2.jsonl"), "adapter": "helpsteer2"}
    (first,) = load_sources(source)
    assert len(first.rows) == 4
    assert first.rows.cache_files
    monkeypatch.setattr("rlhf_lightning.data.adapters.adapter_of", lambda name: helpsteer2)
    (second,) = load_sources(source)
    assert second.digest == first.digest


def test_a_function_of_the_user_is_named_by_its_module(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_adapters.py").write_text(
        "def shouted(rows):\n    for row in rows:\n        yield {'prompt': row['prompt'].upper()}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (source,) = load_sources({"path": write("a.jsonl", {"prompt": "a"}), "adapter": "my_adapters.shouted"})
    assert source.rows["prompt"][:] == ["A"]


@pytest.mark.parametrize("name", ["nothing", "no.such.module", "json.nothing"])
def test_an_unknown_adapter_is_told(write: Callable[..., Path], name: str) -> None:
    with pytest.raises(UserError, match=f"There is no adapter '{name}': name one of summarize_comparisons, helpsteer2"):
        load_sources({"path": write("a.jsonl", {"prompt": "a"}), "adapter": name})


def test_rows_of_another_form_and_rows_that_give_nothing_are_told(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", {"prompt": "a"}, {"prompt": "a"})
    with pytest.raises(UserError, match=r"a\.jsonl: the rows do not have the form that adapter helpsteer2 reads"):
        load_sources({"path": path, "adapter": "helpsteer2"})
    single = write("b.jsonl", {"prompt": "a", "response": "b", "helpfulness": 1})
    with pytest.raises(UserError, match=r"b\.jsonl: adapter helpsteer2 makes no row of its 1 rows"):
        load_sources({"path": single, "adapter": "helpsteer2"})
