"""What a figure was measured on: processor, its instructions, memory, load, versions."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

TOLD = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
LIBRARIES = ("torch", "transformers", "lightning", "accelerate", "trl", "rlhf-lightning")


def machine(threads: int) -> dict[str, str]:
    """By name; what Linux does not tell is left out."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.machine()}",
    }
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line)
        told = {name.strip(): value.strip() for name, value in fields.items()}
        flags = set(told.get("flags", "").split())
        found["processor"] = f"{told.get('model name', 'unknown')}, {os.cpu_count()} cores, {threads} threads used"
        found["instructions"] = ", ".join(name for name in TOLD if name in flags) or "none of those that matter here"
    memory = Path("/proc/meminfo")
    if memory.exists():
        kilobytes = int(memory.read_text().split("MemTotal:")[1].split()[0])
        found["memory"] = f"{kilobytes / 2**20:.0f} GiB"
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    found["load before"] = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return found


def versions(python: str) -> str:
    """Of the libraries in a Python's environment."""
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {'Python': platform.python_version()}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", code, *LIBRARIES], capture_output=True, text=True, check=True)
    return ", ".join(f"{name} {version}" for name, version in json.loads(done.stdout).items())
