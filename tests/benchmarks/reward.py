"""Seconds and tokens per second of reward training on K ranked completions: each completion read with its prompt, the
prompt read once for all, and, with --peer, TRL's RewardTrainer on all K(K − 1)/2 pairs.

    python tests/benchmarks/reward.py [--dtype bf16] [--peer .peers/trl-1.16.0/bin/python]
    python tests/benchmarks/reward.py --model FOLDER --comparisons comparisons.jsonl

A run is one pass over the comparisons. Without --model the model is a random Llama with one label (``worlds.py``). The
peer needs a folder of a reward model, as it is made here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sides
import worlds
from arguments import lines, parser, workplace
from duel import Contestant, alternate
from matmul import Shapes
from report import Need, phase_shares, print_duel, print_phases, save

PLAIN, SHARED, PEER = "K-wise", "K-wise, prompt read once", "TRL 1.16.0 RewardTrainer"


def ours(name: str, model: str, rows: str, arguments: argparse.Namespace) -> Contestant:
    """This package's side."""
    head = "new" if arguments.model else "pretrained"
    overrides = [
        f"model.name={model}",
        f"module.reward_model.head={head}",
        f"module.micro_batch_size={arguments.micro_batch}",
        f"module.share_prompt={str(name == SHARED).lower()}",
    ]
    return sides.passes(name, "reward", arguments, rows, overrides)


def peer(model: str, rows: str, arguments: argparse.Namespace) -> Contestant:
    """TRL's side of the same work."""
    settings = {
        "model": model,
        "comparisons": rows,
        "steps": lines(rows) // arguments.batch,
        "pairs_per_pass": arguments.peer_pairs,
        "dtype": arguments.dtype,
        "learning_rate": arguments.learning_rate,
    }
    return Contestant(PEER, arguments.peer, "peers/trl_reward.py", settings)


def needs(shapes: Shapes, arguments: argparse.Namespace, *, shared: bool) -> dict[str, Need]:
    """What the passes need: a prompt once for each completion, or once for all of them."""
    prompt, completion, many = arguments.prompt, arguments.completion, arguments.completions
    whole, alone = shapes.forward([prompt + completion]), shapes.forward([prompt])
    operations = (alone + many * (whole - alone) if shared else many * whole) * arguments.count
    tokens = (prompt + many * completion if shared else many * (prompt + completion)) * arguments.count
    rows = tokens // arguments.count * arguments.micro_batch
    forward = Need(operations, float(tokens), rows, head=False)
    return {"forward": forward, "backward": forward._replace(operations=2 * operations, backward=True)}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", help="folder or hub id of a causal language model; by default one is made")
    made.add_argument("--comparisons", help='file of rows {"prompt", "responses", "ranks"}')
    made.add_argument("--count", type=int, default=8, help="prompts that are made")
    made.add_argument("--completions", type=int, default=9, help="K of the prompts that are made")
    made.add_argument("--prompt", type=int, default=128, help="tokens of the prompts that are made")
    made.add_argument("--completion", type=int, default=48, help="tokens of the completions that are made, with EOS")
    made.add_argument("--batch", type=int, default=4, help="prompts of an optimizer step")
    made.add_argument("--micro-batch", type=int, default=1, help="prompts of a forward pass, of ours")
    made.add_argument("--peer-pairs", type=int, default=9, help="pairs of a forward pass, of the peer's")
    made.add_argument("--learning-rate", type=float, default=1e-5)
    arguments = made.parse_args()
    if arguments.model and (arguments.peer or not arguments.comparisons):
        raise SystemExit("--model needs --comparisons and stands without --peer")
    with workplace(arguments.folder) as folder:
        size = worlds.Size(*arguments.size)
        model = arguments.model or str(worlds.reward_model(folder / "reward", size))
        shape = {"completions": arguments.completions, "prompt": arguments.prompt, "completion": arguments.completion}
        rows = arguments.comparisons
        rows = rows or str(worlds.comparisons(Path(folder) / "comparisons.jsonl", arguments.count, size, **shape))
        contestants = [ours(name, model, rows, arguments) for name in (PLAIN, SHARED)]
        if arguments.peer:
            contestants.append(peer(model, rows, arguments))
        found = alternate(contestants, runs=arguments.runs, threads=arguments.threads)
        shares = {}
        for name in () if arguments.model else (PLAIN, SHARED):
            shapes = Shapes.of(model)
            need = needs(shapes, arguments, shared=name == SHARED)
            shares[name] = phase_shares(found[name], need, shapes, arguments.dtype)
            print_phases(shares[name], f"Reward training, {name}, {arguments.dtype}, {arguments.threads} threads")
    tokens = float(arguments.count * arguments.completions * (arguments.prompt + arguments.completion))
    title = f"Reward training on {lines_of(arguments)}, {arguments.dtype}, {arguments.threads} threads"
    print_duel(found, dict.fromkeys(found, tokens), title)
    save(arguments.json, found, phases=shares)


def lines_of(arguments: argparse.Namespace) -> str:
    return arguments.comparisons or f"{arguments.count} prompts with {arguments.completions} completions"


if __name__ == "__main__":
    main()
