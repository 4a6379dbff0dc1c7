"""Time and memory of prompt hygiene on synthetic prompts.

    python tests/benchmarks/deduplicate.py [--rows 1000000]

Prompts are drawn from templates with long common openings, a third of them near or exact duplicates of others, from
10,000 users. They are an Arrow column, as in a run. Each line is a process of its own; its peak of memory includes the
column, whose size is shown beside it, and the libraries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from rlhf_lightning.data.hygiene import PersonalDataFilter, PromptHygiene, deduplicate

OPENINGS = (
    "Below is an instruction that describes a task. Write a response that completes it. ",
    "You are given a customer's letter. Summarize it in one sentence and say how the customer feels. ",
    "",
)
TEXT = (
    "write explain compare the a poem letter river city about history of 3 examples in 1998 colour price garden "
    "science music please list why how short long story for children costs $25 between at 10:30 every morning"
)
WORDS = TEXT.split()
USERS = 10_000
PREFIX = 128


def prompts(rows: int) -> Iterator[str]:
    """Prompts of 40 to 500 characters; every third repeats an earlier beginning, some carry an address."""
    draw = random.Random(0)
    recent: list[str] = []
    for index in range(rows):
        if index % 3 == 2:
            yield recent[index // 3 % len(recent)] + draw.choice(["", " Be brief."])
            continue
        text = draw.choice(OPENINGS) + " ".join(draw.choices(WORDS, k=draw.randint(8, 70))) + f" {index}"
        if index % 200 == 0:
            text += f" Write to user{index}@example.com."
        if len(recent) < 50_000:
            recent.append(text)
        yield text


def column(rows: int) -> pa.ChunkedArray:
    made = prompts(rows)
    return pa.chunked_array([[next(made) for _ in range(min(50_000, rows - at))] for at in range(0, rows, 50_000)])


def texts(prompts: pa.ChunkedArray) -> Iterator[str]:
    for begin in range(0, len(prompts), 10_000):
        yield from prompts.slice(begin, 10_000).to_pylist()


def by_prefix(prompts: pa.ChunkedArray) -> int:
    return len(deduplicate(texts(prompts), min_common_prefix=PREFIX))


def by_personal_data(prompts: pa.ChunkedArray) -> int:
    find = PersonalDataFilter()
    return sum(not find(text) for text in texts(prompts))


def by_all(prompts: pa.ChunkedArray) -> int:
    hygiene = PromptHygiene(
        min_common_prefix=PREFIX, max_per_user=200, personal_data=["email", "phone", "ip"], validation_fraction=0.1
    )
    cleaned = hygiene.clean(prompts, (f"user {index % USERS}" for index in range(len(prompts))))
    return len(cleaned.train) + len(cleaned.validation)


def measure(step: Callable[[pa.ChunkedArray], int], rows: int) -> tuple[int, float, float, float]:
    """Rows that stay, seconds, and MiB of the column and of the process at its peak."""
    data = column(rows)
    began = time.perf_counter()
    kept = step(data)
    seconds = time.perf_counter() - began
    return kept, seconds, data.nbytes / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    table = Table(title=f"Prompt hygiene, one core; common prefix of {PREFIX} characters", title_justify="left")
    for name in ("step", "rows", "kept", "seconds", "rows/s", "data MiB", "peak MiB"):
        table.add_column(name, justify="left" if name == "step" else "right", no_wrap=True)
    spawn = multiprocessing.get_context("spawn")
    for rows in arguments.rows:
        for name, step in (("duplicates", by_prefix), ("personal data", by_personal_data), ("all steps", by_all)):
            with spawn.Pool(1) as pool:
                kept, seconds, size, peak = pool.apply(measure, (step, rows))
            figures = (
                f"{rows:,}",
                f"{kept:,}",
                f"{seconds:.1f}",
                f"{rows / seconds:,.0f}",
                f"{size:.0f}",
                f"{peak:.0f}",
            )
            table.add_row(name, *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
