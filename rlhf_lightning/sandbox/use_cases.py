"""The ten use cases and their shares: Table 1 of the paper (Ouyang et al. 2022)."""

from __future__ import annotations

# Per cent, Table 1.
USE_CASES = {
    "generation": 45.6,
    "open_qa": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed_qa": 2.6,
    "extract": 1.9,
}


def use_case_counts(total: int) -> dict[str, int]:
    """Rows per use case for ``total`` rows: the paper's shares, exact to the nearest row (largest remainder)."""
    scale = total / sum(USE_CASES.values())
    counts = {use_case: int(share * scale) for use_case, share in USE_CASES.items()}
    by_remainder = sorted(USE_CASES, key=lambda use_case: counts[use_case] - USE_CASES[use_case] * scale)
    for use_case in by_remainder[: total - sum(counts.values())]:
        counts[use_case] += 1
    return counts
