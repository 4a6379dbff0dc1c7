from __future__ import annotations

from collections import Counter

import pytest

from rlhf_lightning.data.hygiene import at_most_per_user, split_by_user
from rlhf_lightning.errors import UserError


def test_every_user_has_at_most_so_many_rows() -> None:
    users = ["ann", "bob", "ann", "ann", None, None, "bob", "ann", None]
    kept = at_most_per_user(users, limit=2).tolist()
    assert kept == sorted(kept)
    assert Counter(users[i] for i in kept) == {"ann": 2, "bob": 2, None: 3}


def test_which_rows_stay_is_drawn_by_the_seed() -> None:
    users = ["ann"] * 100
    first = at_most_per_user(users, limit=10, seed=1).tolist()
    assert first == at_most_per_user(users, limit=10, seed=1).tolist()
    assert first != at_most_per_user(users, limit=10, seed=2).tolist()
    assert first != list(range(10))


def test_users_are_the_same_as_numbers_and_as_text_and_nobody_has_many_names() -> None:
    assert len(at_most_per_user([7, "7", 7.0], limit=1)) == 1
    assert at_most_per_user([None, "", float("nan"), None, ""], limit=1).tolist() == [0, 1, 2, 3, 4]


def test_a_users_rows_go_to_one_split() -> None:
    users = [f"user {i % 500}" for i in range(5_000)]
    parts = split_by_user(users, fractions=[0.8, 0.1, 0.1], seed=3).tolist()
    by_user = {user: {part for other, part in zip(users, parts, strict=True) if other == user} for user in users[:500]}
    assert all(len(found) == 1 for found in by_user.values())
    sizes = Counter(part for found in by_user.values() for part in found)
    assert 370 <= sizes[0] <= 430
    assert 30 <= sizes[1] <= 70
    assert 30 <= sizes[2] <= 70


def test_rows_that_are_added_move_no_user() -> None:
    users: list[str | int | float | None] = ["ann", "bob", "cleo", "dan", "eve", None]
    names = ["", "", "", "", "", "a prompt"]
    parts = split_by_user(users, fractions=[0.5, 0.5], seed=1, anonymous=names).tolist()
    more = split_by_user(
        ["zoe", None, *users], fractions=[0.5, 0.5], seed=1, anonymous=["", "another prompt", *names]
    ).tolist()
    assert more[2:] == parts


def test_the_split_is_the_same_in_every_process_and_another_for_another_seed() -> None:
    users = list("abcdefghijkl")
    assert split_by_user(users, fractions=[0.5, 0.5], seed=0).tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0]
    assert split_by_user(users, fractions=[0.5, 0.5], seed=1).tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_rows_without_a_user_are_split_one_by_one() -> None:
    parts = split_by_user([None] * 1_000, fractions=[0.5, 0.5]).tolist()
    assert 400 < sum(parts) < 600


def test_a_part_of_nothing_stays_empty() -> None:
    assert split_by_user(list("abc"), fractions=[1.0, 0.0]).tolist() == [0, 0, 0]
    assert split_by_user(list("abc"), fractions=[0.0, 1.0]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("fractions", [[], [0.5, 0.4], [1.5, -0.5]])
def test_fractions_add_up_to_one(fractions: list[float]) -> None:
    with pytest.raises(UserError, match="must be at least 0 and add up to 1"):
        split_by_user(["ann"], fractions=fractions)


def test_a_limit_of_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="max_per_user must be at least 1, not 0"):
        at_most_per_user(["ann"], limit=0)
