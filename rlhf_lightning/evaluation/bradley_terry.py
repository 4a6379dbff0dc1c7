"""Bradley-Terry ratings: one number for each of several models, from their duels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_TOLERANCE = 1e-9
_ITERATIONS = 20_000


class Rating(NamedTuple):
    """Log-odds of beating the anchor, with its 95 % interval; ``separated``: see :func:`bradley_terry`."""

    rating: float
    low: float
    high: float
    separated: bool


def bradley_terry(wins: np.ndarray, *, anchor: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maximum-likelihood ratings θ of ``P(i beats j) = σ(θ_i − θ_j)`` (Bradley and Terry 1952), θ_anchor = 0.

    The fixed point ``p_i = Σ_j w_ij / Σ_j (w_ij + w_ji) / (p_i + p_j)``, θ = log p, is reached by the MM algorithm of
    Hunter (2004), which never lowers the likelihood. A tie is half a win for either.

    Where some models never lose to the others (*separation*) no finite maximum exists. Every two models that met are
    then given one tie more, and the result is marked: such ratings say who is better, and how much by that tie alone.

    Shapes:
        wins: [..., m, m], ``wins[..., i, j]``: how often i beat j; the diagonal is not read. Results: [..., m] and,
        whether it was separated, [...].

    Raises:
        ValueError: not square, a negative number, fewer than two models, or models that no chain of duels connects.
    """
    wins = np.array(wins, dtype=np.float64)
    models = wins.shape[-1]
    if wins.ndim < 2 or wins.shape[-2] != models or models < 2:
        raise ValueError(f"wins has shape {wins.shape}: it must be [..., m, m] with m of at least 2")
    if not np.isfinite(wins).all() or (wins < 0).any():
        raise ValueError("wins must be finite and not negative")
    shape, wins = wins.shape[:-2], wins.reshape(-1, models, models)
    wins[:, np.arange(models), np.arange(models)] = 0.0
    met = wins + wins.transpose(0, 2, 1) > 0
    if not _reaches_all(met).all():
        raise ValueError("some models are connected by no chain of duels: their ratings cannot be compared")
    separated = ~_reaches_all(wins > 0)
    wins = wins + 0.5 * met * separated[:, None, None]
    duels, total = wins + wins.transpose(0, 2, 1), wins.sum(2)
    theta = np.zeros((len(wins), models))
    for _ in range(_ITERATIONS):
        strength = np.exp(theta)
        new = np.log(total) - np.log((duels / (strength[:, :, None] + strength[:, None, :])).sum(2))
        new -= new[:, anchor : anchor + 1]
        change, theta = np.abs(new - theta).max(), new
        if change < _TOLERANCE:
            break
    return theta.reshape(*shape, models), separated.reshape(shape)


def rate_models(
    preferences: Mapping[tuple[str, str], Sequence[float]], *, anchor: str, resamples: int = 500, seed: int = 0
) -> dict[str, Rating]:
    """Ratings of all models that met, with 95 % bootstrap intervals over prompts: all duels on a prompt go together.

    Args:
        preferences: for each pair (a, b), per prompt 1 where a won, ½ for a tie, 0 where b won. All pairs have the same
            prompts.
        anchor: the model whose rating is 0.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: no prompts, another number of them in each pair, an anchor that is in no pair, or what
            :func:`bradley_terry` refuses.
    """
    names = list(dict.fromkeys(name for pair in preferences for name in pair))
    if anchor not in names:
        raise ValueError(f"anchor={anchor} is in no pair; the models are {', '.join(names) or 'none'}")
    if len({len(values) for values in preferences.values()}) != 1 or not len(next(iter(preferences.values()))):
        raise ValueError("every pair needs the preferences of the same prompts, and at least one")
    values = np.array(list(preferences.values()), dtype=np.float64)  # [pairs, prompts]
    prompts = values.shape[1]
    draws = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    draws = np.concatenate([np.ones((1, prompts)), draws])  # the first is what was seen
    won = draws @ values.T
    wins = np.zeros((len(draws), len(names), len(names)))
    for column, (first, second) in enumerate(preferences):
        i, j = names.index(first), names.index(second)
        wins[:, i, j] += won[:, column]
        wins[:, j, i] += prompts - won[:, column]
    theta, separated = bradley_terry(wins, anchor=names.index(anchor))
    low, high = np.quantile(theta[1:], [0.025, 0.975], axis=0)
    return {
        name: Rating(float(theta[0, i]), float(low[i]), float(high[i]), bool(separated[0]))
        for i, name in enumerate(names)
    }


def _reaches_all(edges: np.ndarray) -> np.ndarray:
    """Whether from every model a path leads to every other. Shapes: [b, m, m] to [b]."""
    models = edges.shape[-1]
    reach = edges | np.eye(models, dtype=bool)
    for _ in range(models.bit_length()):
        reach = np.matmul(reach.astype(np.int64), reach.astype(np.int64)) > 0
    return np.asarray(reach.all((1, 2)))
