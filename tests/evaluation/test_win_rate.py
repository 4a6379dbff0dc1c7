from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from rlhf_lightning.evaluation import bootstrap_interval, win_rate


def test_ties_count_as_half() -> None:
    assert win_rate([1.0, 1.0, 0.5, 0.0]).mean == 0.625


def test_the_interval_is_that_of_the_mean() -> None:
    # 400 prompts, half won: the standard error is 0.025, so the interval is about 0.5 ± 0.049.
    mean, low, high = win_rate([1.0, 0.0] * 200)
    assert mean == 0.5
    assert low == pytest.approx(0.451, abs=0.006)
    assert high == pytest.approx(0.549, abs=0.006)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    # Win 0.55, tie 0.1, loss 0.35: the true win rate is 0.6.
    draw = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        preferences = draw.choice([1.0, 0.5, 0.0], size=120, p=[0.55, 0.1, 0.35])
        rate = win_rate(preferences, resamples=400, seed=seed)
        covered += rate.low <= 0.6 <= rate.high
    assert 0.92 <= covered / 400 <= 0.975


def coverage(prompts: int, win: float, tie: float) -> float:
    """Share of 1,000 simulated judges with a known preference whose interval contains it."""
    draw = np.random.default_rng(11)
    judges = draw.choice([1.0, 0.5, 0.0], size=(1000, prompts), p=[win, tie, 1 - win - tie])
    found = [win_rate(preferences, resamples=500, seed=seed) for seed, preferences in enumerate(judges)]
    return sum(rate.low <= win + tie / 2 <= rate.high for rate in found) / 1000


@pytest.mark.parametrize(("prompts", "win", "tie"), [(50, 0.9, 0.0), (100, 0.3, 0.0), (400, 0.7, 0.15)])
def test_95_percent_of_the_intervals_contain_a_known_preference(prompts: int, win: float, tie: float) -> None:
    assert 0.93 <= coverage(prompts, win, tie) <= 0.97


@pytest.mark.parametrize(("prompts", "win", "tie"), [(10, 0.9, 0.0), (12, 0.5, 0.2), (20, 0.85, 0.1)])
def test_with_few_prompts_it_is_not_contained_less_often(prompts: int, win: float, tie: float) -> None:
    # The prompts alone, without the two imagined ones, cover 62 to 87 % of the one-sided judges.
    assert coverage(prompts, win, tie) >= 0.93


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 1.0]
    assert win_rate(values, seed=1) == win_rate(values, seed=1)


def test_ten_wins_of_ten_do_not_prove_that_nothing_is_lost() -> None:
    # A judge who prefers it in 80 % of cases shows ten wins of ten in one case of nine: 0.8 must not be excluded.
    mean, low, high = win_rate([1.0] * 10)
    assert (mean, high) == (1.0, 1.0)
    assert 0.7 <= low <= 0.8
    assert win_rate([0.0] * 10)[2] == pytest.approx(1 - low, abs=1e-9)


def test_pairs_of_a_prompt_are_drawn_together() -> None:
    # 4 prompts of 100 pairs each, all right or all wrong: the interval must be that of 4 draws, not of 400.
    low, high = bootstrap_interval([100, 0, 100, 0], [100, 100, 100, 100])
    assert (low, high) == (0.0, 1.0)


def test_the_ratio_weighs_prompts_by_their_pairs() -> None:
    # 200 prompts of one pair, all right, and 200 of three, all wrong: a quarter of the pairs, not half.
    low, high = bootstrap_interval([1, 0] * 200, [1, 3] * 200)
    assert 0.2 < low < 0.25 < high < 0.3


def test_few_draws_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 1.0]
    whole = bootstrap_interval(values, resamples=100)
    monkeypatch.setattr(import_module("rlhf_lightning.evaluation.win_rate"), "_CHUNK", 70)
    assert bootstrap_interval(values, resamples=100) == whole


def test_no_preferences_are_an_error() -> None:
    with pytest.raises(ValueError, match="n > 0"):
        win_rate([])


def test_a_preference_beyond_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="within 0 and 1"):
        win_rate([1.0, 2.0])
