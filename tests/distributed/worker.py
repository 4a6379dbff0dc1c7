"""One process of a few that train together: test files start it, and it runs scenarios one after the other, so that the
imports are paid for once. No test by itself.

    worker.py PLAN.json OUT    with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment

The plan is a list of ``{"name": ..., "scenario": ..., ...arguments}``; what a scenario returns goes to
``OUT/name.RANK.pt``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

import scenarios
import torch

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

if __name__ == "__main__":
    plan, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for step in plan:
        os.environ["WORLD_SIZE"] = str(WORLD)  # Lightning takes it away at the end of a fit
        name, scenario = step.pop("name"), step.pop("scenario")
        run = getattr(scenarios, scenario)
        torch.manual_seed(0)
        begin = time.monotonic()
        found = run(world=WORLD, **step)
        found["seconds"] = time.monotonic() - begin
        print(f"{name}: {found['seconds']:.1f} s", file=sys.stderr, flush=True)
        torch.save(found, out / f"{name}.{RANK}.pt")
