"""All steps of prompt hygiene in one object for the config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.hygiene.duplicates import check_prefix, first_of_each, prefix_digests
from rlhf_lightning.data.hygiene.personal_data import PersonalDataFilter
from rlhf_lightning.data.hygiene.prompt_text import prompt_text
from rlhf_lightning.data.hygiene.users import User, at_most_per_user, check_limit, split_by_user, user_key
from rlhf_lightning.data.reporting import report
from rlhf_lightning.errors import UserError

CHUNK = 10_000
"""Prompts that are held as text at a time."""


class Cleaned(NamedTuple):
    """Which prompts stay, and why the others do not.

    ``train`` and ``validation`` hold indices in order; ``dropped`` counts rows by the step that dropped them;
    ``personal_data`` counts rows by kind, where a row can have several.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    dropped: dict[str, int]
    personal_data: dict[str, int]


class PromptHygiene:
    """What InstructGPT does to prompts before anything is trained on them (paper: section 3.2 and appendix A).

    The steps, in this order: prompts with personal data are dropped; then duplicates; then what a user has too many
    of; what stays is split by user. Personal data comes first, so that of two alike prompts the clean one can stay,
    and the limit last, so that it counts prompts that can be used. The same prompts in the same order and the same seed
    give the same result.

    Args:
        deduplicate: drop prompts that are equal to an earlier one.
        min_common_prefix: drop also those that share so many characters at the start with an earlier one; system
            messages must be equal too and do not count. None for equal prompts only.
        max_per_user: prompts of a user (paper: 200); None for no limit. Rows without a user count as users of their
            own.
        personal_data: kinds of personal data, see ``PersonalDataFilter``, or a callable ``text -> kinds in it``; rows
            with any are dropped. None keeps them.
        validation_fraction: of the users, whose prompts are held out for validation; 0 for none.
        seed: of the draws per user and of the split.

    Errors:
        UserError: a value that makes no sense, or options of a step that is off.
    """

    def __init__(
        self,
        *,
        deduplicate: bool = True,
        min_common_prefix: int | None = None,
        max_per_user: int | None = None,
        personal_data: Sequence[str] | Callable[[str], Iterable[str]] | None = None,
        validation_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        if min_common_prefix is not None:
            check_prefix(min_common_prefix)
            if not deduplicate:
                raise UserError(
                    f"min_common_prefix={min_common_prefix} has no effect with deduplicate=false: "
                    "set deduplicate=true or min_common_prefix=null"
                )
        if max_per_user is not None:
            check_limit(max_per_user)
        if not 0 <= validation_fraction < 1:
            raise UserError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}")
        if personal_data is not None and not callable(personal_data):
            personal_data = PersonalDataFilter(kinds=personal_data)
        self.deduplicate = deduplicate
        self.min_common_prefix = min_common_prefix
        self.max_per_user = max_per_user
        self.personal_data = personal_data
        self.validation_fraction = validation_fraction
        self.seed = seed

    @property
    def active(self) -> bool:
        """Whether any step is on."""
        return bool(
            self.deduplicate
            or self.max_per_user is not None
            or self.personal_data is not None
            or self.validation_fraction
        )

    def clean(
        self, prompts: Iterable[str | Sequence[Mapping[str, str]]], users: Iterable[User] | None = None
    ) -> Cleaned:
        """The prompts that stay, in the order they came in, and the counts of every step, which are logged.

        Args:
            prompts: n texts or conversations: a list or another iterable, or a pyarrow column.
            users: [n] who wrote them; None where nobody is known.

        Errors:
            UserError: no prompt stays; users of another number; a split of which one part is empty.
        """
        personal, kinds, prefixes, wholes = self._read(prompts)
        names = [None] * len(personal) if users is None else list(_plain(users))
        if len(names) != len(personal):
            raise UserError(f"{len(personal)} prompts and {len(names)} users: give a user, or null, for every prompt")
        dropped = {}
        kept = np.flatnonzero(~personal).astype(np.int64)
        if self.personal_data is not None:
            dropped["personal_data"] = len(personal) - len(kept)
        if self.deduplicate:
            before, kept = len(kept), kept[first_of_each(prefixes[kept])]
            dropped["duplicate"] = before - len(kept)
        if self.max_per_user is not None:
            before = len(kept)
            kept = kept[at_most_per_user([names[i] for i in kept], limit=self.max_per_user, seed=self.seed)]
            dropped["over_user_limit"] = before - len(kept)
        self._log(len(personal), dropped, kinds, any(user_key(name) is not None for name in names))
        if not len(kept):
            counts = ", ".join(f"{step}: {count}" for step, count in dropped.items())
            raise UserError(f"Prompt hygiene leaves none of {len(personal)} prompts ({counts}): relax data.hygiene")
        train, validation = self._split(kept, names, wholes)
        return Cleaned(train, validation, dropped, kinds)

    def _read(
        self, prompts: Iterable[str | Sequence[Mapping[str, str]]]
    ) -> tuple[NDArray[np.bool_], dict[str, int], NDArray[np.uint64], NDArray[np.uint64]]:
        """One pass over the texts: whether and which personal data is in them, digests of prefixes and of the whole."""
        personal: list[bool] = []
        kinds: Counter[str] = Counter()
        prefixes, wholes = ([np.zeros((0, 2), dtype=np.uint64)] for _ in range(2))
        remaining = _plain(prompts)
        while chunk := [prompt_text(prompt) for prompt in islice(remaining, CHUNK)]:
            texts = [entry.text for entry in chunk]
            found = [self._kinds(text) for text in texts]
            kinds.update(kind for entry in found for kind in entry)
            personal += map(bool, found)
            if self.deduplicate:
                skip = [entry.system for entry in chunk]
                prefixes.append(prefix_digests(texts, min_common_prefix=self.min_common_prefix, skip=skip))
            if self.validation_fraction:
                wholes.append(prefix_digests(texts))
        flags = np.asarray(personal, dtype=bool)
        return flags, dict(sorted(kinds.items())), np.concatenate(prefixes), np.concatenate(wholes)

    def _kinds(self, text: str) -> set[str]:
        return set() if self.personal_data is None else set(self.personal_data(text))

    def _split(
        self, kept: NDArray[np.int64], users: list[User], wholes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if not self.validation_fraction:
            return kept, kept[:0]
        part = split_by_user(
            [users[i] for i in kept],
            fractions=[1 - self.validation_fraction, self.validation_fraction],
            seed=self.seed,
            anonymous=[f"{high:016x}{low:016x}" for high, low in wholes[kept].tolist()],
        )
        train, validation = kept[part == 0], kept[part == 1]
        if not len(train) or not len(validation):
            raise UserError(
                f"validation_fraction={self.validation_fraction} puts all {len(kept)} prompts into "
                f"{'train' if len(train) else 'validation'}, since a user's stay together: change the fraction or the "
                "seed, or give data.validation"
            )
        report("Prompt hygiene: %d prompts to train on, %d held out by user", len(train), len(validation))
        return train, validation

    def _log(self, rows: int, dropped: dict[str, int], kinds: dict[str, int], named: bool) -> None:
        details = {"personal_data": ", ".join(f"{kind} {count}" for kind, count in kinds.items())}
        for step, count in dropped.items():
            detail = f" ({details[step]})" if details.get(step) else ""
            report("Prompt hygiene: %d of %d prompts dropped: %s%s", count, rows, step, detail)
        if not named and (self.max_per_user is not None or self.validation_fraction):
            report("Prompt hygiene: no prompt names its user, so each counts as a user of its own")


def _plain(column: Any) -> Iterator[Any]:
    """The values of a column; those of a pyarrow array piece by piece."""
    if not hasattr(column, "to_pylist"):
        yield from column
        return
    for begin in range(0, len(column), CHUNK):
        yield from column.slice(begin, CHUNK).to_pylist()
