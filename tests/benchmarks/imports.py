"""Seconds of `import rlhf_lightning` beside those of lightning and transformers, in fresh processes in turn.

Public names are imported when they are first asked for, as those of transformers are. So that nothing is hidden, all
of them at once are measured, too, beside lightning and transformers with the classes of models that they need.
Seconds are the processor's, which other work on the machine hardly changes; those on the clock stand behind them.

    python tests/benchmarks/imports.py --runs 7
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

BASE = "import lightning, transformers; from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel"
OURS = "import rlhf_lightning"
ALL = "from rlhf_lightning import *"
BARE = "import lightning, transformers"


def seconds(code: str) -> tuple[float, float]:
    """Of a fresh process, its start included: of the processor and on the clock."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - started


def main() -> None:
    """Print medians and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    for code in (BASE, ALL):
        seconds(code)  # files into the cache
    found: dict[str, list[tuple[float, float]]] = {code: [] for code in (BARE, BASE, OURS, ALL)}
    for _ in range(runs):
        for code, times in found.items():
            times.append(seconds(code))
    medians = {code: statistics.median(cpu for cpu, _ in times) for code, times in found.items()}
    for code, median in medians.items():
        print(f"{median:6.2f} s ({statistics.median(clock for _, clock in found[code]):.2f} s)  {code}")
    for ours, theirs in ((OURS, BARE), (ALL, BASE)):
        difference, ratio = medians[ours] - medians[theirs], medians[ours] / medians[theirs]
        print(f"{difference:+6.2f} s, {ratio:.2f}x: {ours}, beside: {theirs}")


if __name__ == "__main__":
    main()
