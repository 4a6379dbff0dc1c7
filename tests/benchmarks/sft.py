"""Seconds and tokens per second of supervised fine-tuning on examples of 16 to 512 tokens: packs, padded batches, and,
with --peer, TRL's SFTTrainer with packing and without.

    python tests/benchmarks/sft.py [--dtype bf16] [--peer .peers/trl-1.16.0/bin/python]
    python tests/benchmarks/sft.py --layouts --packs 512 1024 2048 [--model FOLDER --demonstrations FILE]

A run is one pass over the examples, with equally many optimizer steps on all sides; tokens are those of the examples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import sides
import worlds
from arguments import lines, parser, workplace
from duel import Contestant, alternate
from matmul import Shapes
from report import Need, phase_shares, print_duel, print_phases, save

OURS, PACKED, PADDED = "packs of 512", "TRL 1.16.0 SFTTrainer, packing", "TRL 1.16.0 SFTTrainer, padding"


def layouts(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Layouts by name: packs of each size, about ``--tokens`` a forward pass; with --layouts padded ones too."""
    found = {}
    for size in arguments.packs:
        passes = [f"data.packing={size}", f"module.micro_batch_size={max(arguments.tokens // size, 1)}"]
        found[f"packs of {size}"] = passes
    if arguments.layouts:
        few = max(arguments.batch // 8, 1)
        found["padded, the whole batch"] = []
        found[f"padded, by length in micro-batches of {few}"] = [f"module.micro_batch_size={few}"]
    return found


def peers(model: str, rows: str, arguments: argparse.Namespace) -> list[Contestant]:
    """TRL's side of the same work, with packing and without."""
    common: dict[str, Any] = {
        "model": model,
        "demonstrations": rows,
        "longest": arguments.longest,
        "steps": -(-lines(rows) // arguments.batch),
        "dtype": arguments.dtype,
        "learning_rate": arguments.learning_rate,
    }
    packed = common | {"packing": True, "rows_per_pass": arguments.peer_packs}
    padded = common | {"packing": False, "rows_per_pass": arguments.peer_rows}
    return [
        Contestant(name, arguments.peer, "peers/trl_sft.py", settings)
        for name, settings in ((PACKED, packed), (PADDED, padded))
    ]


def needs(rows: str, shapes: Shapes, arguments: argparse.Namespace) -> tuple[dict[str, Need], float]:
    """What the passes need, and the tokens of the examples that were made, whose words are tokens."""
    examples = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    responses = [len(example["response"].split()) + 1 for example in examples]
    lengths = [len(example["prompt"].split()) + more for example, more in zip(examples, responses, strict=True)]
    operations, tokens = shapes.forward(lengths, float(sum(responses))), float(sum(lengths))
    forward = Need(operations, tokens, arguments.tokens)
    return {"forward": forward, "backward": forward._replace(operations=2 * operations, backward=True)}, tokens


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", help="folder or hub id of a causal language model; by default one is made")
    made.add_argument("--demonstrations", help='file of rows {"prompt", "response"}')
    made.add_argument("--count", type=int, default=128, help="examples that are made")
    made.add_argument("--longest", type=int, default=512, help="tokens of the longest example that is made")
    made.add_argument("--batch", type=int, default=32, help="examples of an optimizer step")
    made.add_argument("--packs", type=int, nargs="+", default=[512], help="tokens of a pack, of ours")
    made.add_argument("--tokens", type=int, default=1024, help="tokens of a forward pass of packs, of ours, about")
    made.add_argument("--layouts", action="store_true", help="padded batches of ours too")
    made.add_argument("--peer-packs", type=int, default=1, help="packs of a forward pass, of the peer's")
    made.add_argument("--peer-rows", type=int, default=8, help="padded examples of a forward pass, of the peer's")
    made.add_argument("--learning-rate", type=float, default=1e-5)
    arguments = made.parse_args()
    if arguments.model and not arguments.demonstrations:
        raise SystemExit("--model needs --demonstrations")
    with workplace(arguments.folder) as folder:
        size = worlds.Size(*arguments.size)
        model = arguments.model or str(worlds.policy(folder / "policy-never", size, mean_length=64, longest=64))
        rows = arguments.demonstrations
        rows = rows or str(
            worlds.demonstrations(folder / "demonstrations.jsonl", arguments.count, size, longest=arguments.longest)
        )
        contestants = [
            sides.passes(name, "sft", arguments, rows, [f"model.name={model}", *layout])
            for name, layout in layouts(arguments).items()
        ]
        if arguments.peer:
            contestants += peers(model, rows, arguments)
        found = alternate(contestants, runs=arguments.runs, threads=arguments.threads)
        shapes, first = Shapes.of(model), contestants[0].name
        need, tokens = needs(rows, shapes, arguments)
        shares = phase_shares(found[first], need, shapes, arguments.dtype)
    title = f"SFT, {arguments.dtype}, {arguments.threads} threads"
    print_phases(shares, f"{title}: {first}")
    print_duel(found, dict.fromkeys(found, tokens), title)
    save(arguments.json, found, phases=shares)


if __name__ == "__main__":
    main()
