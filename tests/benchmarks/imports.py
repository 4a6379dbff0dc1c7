"""Seconds of `import rlhf_lightning` beside those of lightning and transformers, in fresh processes in turn.

The two that are compared with are imported as one uses them: `transformers` with its classes of models, loaded when
they are first named.

    python tests/benchmarks/imports.py --runs 7
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

BASE = "import lightning, transformers; from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel"
OURS = "import rlhf_lightning"
BARE = "import lightning, transformers"


def seconds(code: str) -> float:
    """Of a fresh process, its start included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print medians and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    for code in (BASE, OURS):
        seconds(code)  # files into the cache
    found: dict[str, list[float]] = {code: [] for code in (BARE, BASE, OURS)}
    for _ in range(runs):
        for code, times in found.items():
            times.append(seconds(code))
    medians = {code: statistics.median(times) for code, times in found.items()}
    for code, median in medians.items():
        print(f"{median:6.2f} s  {code}")
    for code in (BARE, BASE):
        difference, ratio = medians[OURS] - medians[code], medians[OURS] / medians[code]
        print(f"rlhf_lightning: {difference:+.2f} s, {ratio:.2f}x of: {code}")


if __name__ == "__main__":
    main()
