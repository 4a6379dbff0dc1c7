from __future__ import annotations

import numpy as np
import pytest

from rlhf_lightning.evaluation import bradley_terry, rate_models


def test_two_models_have_the_log_odds_of_their_duels() -> None:
    theta, separated = bradley_terry(np.array([[0, 10.0], [30.0, 0]]))
    assert theta == pytest.approx([0.0, np.log(3)], abs=1e-6)
    assert not separated


def test_three_models_by_hand() -> None:
    # Odds 2 between neighbours and 4 across fit the model without rest: ratings 0, ln 2, ln 4.
    wins = np.array([[0, 10.0, 5.0], [20.0, 0, 10.0], [20.0, 20.0, 0]])
    assert bradley_terry(wins)[0] == pytest.approx([0, np.log(2), np.log(4)], abs=1e-6)
    assert bradley_terry(wins, anchor=2)[0] == pytest.approx([-np.log(4), -np.log(2), 0], abs=1e-6)


def test_the_likelihood_has_no_slope_at_the_ratings() -> None:
    wins = np.random.default_rng(0).integers(1, 40, (5, 5)).astype(float)
    theta, _ = bradley_terry(wins)
    expected = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
    duels = wins + wins.T
    off = ~np.eye(5, dtype=bool)
    assert ((wins - duels * expected) * off).sum(1) == pytest.approx(np.zeros(5), abs=1e-5)


def test_planted_ratings_are_recovered_and_their_intervals_cover() -> None:
    planted = {"sft": 0.0, "base": -1.5, "prompted": -0.2, "ppo": 1.0, "ptx": 1.2}
    names = list(planted)
    inside = total = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        preferences = {}
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                chance = 1 / (1 + np.exp(planted[second] - planted[first]))
                preferences[first, second] = (draw.random(400) < chance).astype(float).tolist()
        found = rate_models(preferences, anchor="sft", resamples=200, seed=seed)
        for name, rating in planted.items():
            assert found[name].rating == pytest.approx(rating, abs=0.3)
            inside += found[name].low <= rating <= found[name].high
            total += 1
        assert found["sft"][:3] == (0.0, 0.0, 0.0)
    assert inside / total >= 0.9


def test_half_wins_are_ties() -> None:
    found = rate_models({("a", "b"): [0.5] * 30}, anchor="a")
    assert found["b"] == (0.0, 0.0, 0.0, False)


def test_a_model_that_never_loses_has_a_finite_rating_and_is_marked() -> None:
    wins = np.array([[0, 5.0, 0], [5.0, 0, 0], [10.0, 10.0, 0]])
    theta, separated = bradley_terry(wins)
    assert separated
    # One more tie: 10.5 of 11 against each.
    assert theta == pytest.approx([0, 0, np.log(10.5 / 0.5)], abs=1e-4)


def test_batches_are_solved_one_by_one() -> None:
    wins = np.array([[[0, 1.0], [3.0, 0]], [[0, 5.0], [0, 0]]])
    theta, separated = bradley_terry(wins)
    assert theta[:, 1] == pytest.approx([np.log(3), np.log(0.5 / 5.5)], abs=1e-6)
    assert separated.tolist() == [False, True]


@pytest.mark.parametrize(
    ("wins", "message"),
    [
        (np.zeros((2, 3)), "must be"),
        (np.array([[0, -1.0], [1.0, 0]]), "negative"),
        (np.array([[0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0], [0, 0, 1.0, 0]]), "no chain"),
    ],
)
def test_what_has_no_rating_is_refused(wins: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bradley_terry(wins)


def test_pairs_need_the_same_prompts_and_a_known_anchor() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        rate_models({("a", "b"): [1.0], ("b", "c"): [1.0, 0.0]}, anchor="a")
    with pytest.raises(ValueError, match="anchor=z"):
        rate_models({("a", "b"): [1.0, 0.0]}, anchor="z")
