from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.data.hygiene import deduplicate
from rlhf_lightning.errors import UserError


def alike(first: str, second: str, length: int | None) -> bool:
    if first == second:
        return True
    return length is not None and len(first) >= length and second.startswith(first[:length])


def brute_force(texts: Sequence[str], length: int | None) -> list[int]:
    """Every text against every earlier one that stayed."""
    kept: list[int] = []
    for index, text in enumerate(texts):
        if not any(alike(texts[earlier], text, length) for earlier in kept):
            kept.append(index)
    return kept


def test_first_of_each_prefix_stays() -> None:
    texts = ["abcdef", "abcdxx", "abc", "abcd", "abc", "zbcdef", "abcd", ""]
    assert deduplicate(texts, min_common_prefix=4).tolist() == [0, 2, 5, 7]
    assert deduplicate(texts, min_common_prefix=5).tolist() == [0, 1, 2, 3, 5, 7]
    assert deduplicate(texts).tolist() == [0, 1, 2, 3, 5, 7]


def test_texts_shorter_than_the_prefix_are_duplicates_of_equal_ones_alone() -> None:
    assert deduplicate(["ab", "abc", "abcd", "ab"], min_common_prefix=10).tolist() == [0, 1, 2]


def test_characters_count_and_not_bytes() -> None:
    assert deduplicate(["日本語の一", "日本語の二"], min_common_prefix=5).tolist() == [0, 1]
    assert deduplicate(["日本語の一", "日本語の二"], min_common_prefix=4).tolist() == [0]
    assert deduplicate(["\ud800", "\ud800"]).tolist() == [0]


def test_no_texts() -> None:
    assert deduplicate([]).tolist() == []


@settings(deadline=None, max_examples=200)
@given(
    texts=st.lists(st.text(alphabet="ab", max_size=8), max_size=40),
    length=st.none() | st.integers(min_value=1, max_value=9),
)
def test_equal_to_brute_force_on_any_texts(texts: list[str], length: int | None) -> None:
    assert deduplicate(texts, min_common_prefix=length).tolist() == brute_force(texts, length)


@pytest.mark.parametrize("length", [8, 24, 40])
def test_equal_to_brute_force_on_two_thousand(length: int) -> None:
    """Prompts that share openings of every length, as those of an application's template do."""
    draw = random.Random(length)
    words = ["write", "a", "poem", "on", "the", "sea"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 14))) for _ in range(2_000)]
    expected = brute_force(texts, length)
    assert deduplicate(texts, min_common_prefix=length).tolist() == expected
    assert 10 < len(expected) < 1_990


def test_time_is_near_linear() -> None:
    """Texts that are all alike for 200 characters, where comparing neighbours or all pairs is slow."""
    texts = [f"{'x' * 200}{index % 50_000}" for index in range(100_000)]
    began = time.perf_counter()
    assert len(deduplicate(texts, min_common_prefix=300)) == 50_000
    assert time.perf_counter() - began < 6  # a million in a minute


@pytest.mark.parametrize("length", [0, -3])
def test_a_prefix_of_nothing_is_an_error(length: int) -> None:
    with pytest.raises(UserError, match=f"min_common_prefix must be at least 1 character, not {length}"):
        deduplicate(["a"], min_common_prefix=length)
