"""Seconds and tokens per second of rollouts alone, as PPO makes them, alone or against ``generate`` of transformers.

    python tests/benchmarks/generation.py [--ending never] [--dtype bf16] [--peer .venv/bin/python]
    python tests/benchmarks/generation.py --model FOLDER --prompts prompts.jsonl

The work is that of ``ppo_iteration.py``: 64 prompts in one batch. Ours is the rollout of a PPO run, weights in float32
and autocast with --dtype bf16; the peer's model is loaded in bf16.
"""

from __future__ import annotations

import argparse
from typing import Any

from arguments import workplace
from duel import Contestant, alternate, median
from matmul import Shapes, matmul_rate
from ppo_iteration import OURS, episode_lengths, inputs, mean_lengths, needs, options, ours
from report import print_duel, save

PEER = "transformers generate"


def peer(given: dict[str, str], arguments: argparse.Namespace) -> Contestant:
    """transformers' side of the same work."""
    settings: dict[str, Any] = {**given, "max_new_tokens": arguments.max_new_tokens, "dtype": arguments.dtype}
    settings["attention"] = arguments.attention
    return Contestant(PEER, arguments.peer, "peers/transformers_generate.py", settings)


def main() -> None:
    made = options()
    made.description = __doc__
    made.set_defaults(rollouts_only=True, ending="short")
    arguments = made.parse_args()
    arguments.minibatch = arguments.episodes  # nothing is trained
    with workplace(arguments.folder) as folder:
        given = inputs(arguments, folder, arguments.episodes)
        contestants = [ours(OURS, given, arguments, arguments.episodes)]
        if arguments.peer:
            contestants.append(peer(given, arguments))
        found = alternate(contestants, runs=arguments.runs, threads=arguments.threads)
        shapes = Shapes.of(given["policy"])
        prompts, responses = episode_lengths(found[OURS])
        need = needs(prompts, responses, shapes, arguments)["rollout"]
        share = need.operations / matmul_rate(shapes, need.rows, arguments.dtype) / median(found[OURS])
    means = mean_lengths(found)
    tokens = {name: means[name] * arguments.episodes for name in found}
    work = f"Generation: {arguments.episodes} prompts, {arguments.dtype}, {arguments.threads} threads"
    print_duel(found, tokens, work)
    for name, mean in means.items():
        print(f"{name}: mean response {mean:.1f} of {arguments.max_new_tokens} tokens")
    print(f"{OURS}: {share:.0%} of the matmul rate with {need.rows} rows, as many as decode at a time on average")
    save(arguments.json, found, mean_lengths=means, share=share)


if __name__ == "__main__":
    main()
