"""Seconds per phase and tokens per second of PPO iterations, alone or against TRL's PPOTrainer.

    python tests/benchmarks/ppo_iteration.py [--ending short] [--dtype bf16] [--compile] [--peer PYTHON]
    python tests/benchmarks/ppo_iteration.py --model FOLDER [--reward FOLDER] --prompts prompts.jsonl
    python tests/benchmarks/ppo_iteration.py --scaling 64 256 1024

The lean side is ours with ``LEAN_OPTIONS``, the compiled one has the callback compiled_passes beside them.

Without --model the models are random Llamas of 5.6M parameters (``worlds.py``) and the prompts have 16 to 48 tokens.
Policy, reference, value and reward model are four models. Given a language model alone, the reward is a constant and
the value model starts from the language model. --set takes options of the configuration, such as data.text=FILE.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import sides
import torch
import worlds
from arguments import lines, parser, workplace
from duel import Contestant, Run, alternate, median
from matmul import Shapes
from report import Need, phase_shares, print_duel, print_phases, save

OURS, PEER = "rlhf_lightning", "TRL 1.12.0 PPOTrainer"
# In bf16: frozen models in float32 and transformers' own choice of attention; PEER has what is fastest for it.
AS_IT_COMES = f"{PEER}, as it comes"
LEAN, COMPILED = "rlhf_lightning, lean", "rlhf_lightning, compiled passes"
# No padding, which sdpa reads best on a CPU, and ratios from what the engine drew with.
LEAN_OPTIONS = (
    "module.padding_free=true",
    "model.attn_implementation=sdpa",
    "module.old_logprobs=engine",
)
MEAN_LENGTHS = {"never": 64, "short": 20}


def constant_reward(prompts: list[str], responses: list[str]) -> torch.Tensor:
    """A reward that costs nothing."""
    return torch.zeros(len(responses))


def inputs(arguments: argparse.Namespace, folder: Path, episodes: int) -> dict[str, str]:
    """Model folders and prompts: what was given, else what is made."""
    if arguments.model:
        found = {"policy": arguments.model, "prompts": arguments.prompts}
        return found | ({"reward": arguments.reward} if arguments.reward else {})
    size = worlds.Size(*arguments.size)
    ending = arguments.ending
    policy = worlds.policy(
        folder / f"policy-{ending}", size, mean_length=MEAN_LENGTHS[ending], longest=arguments.max_new_tokens
    )
    reward = worlds.reward_model(folder / "reward", size)
    prompts = worlds.prompts(folder / f"prompts-{episodes}.jsonl", episodes, size)
    return {"policy": str(policy), "reward": str(reward), "prompts": str(prompts)}


def ours(name: str, given: dict[str, str], arguments: argparse.Namespace, episodes: int) -> Contestant:
    """This package's side, one iteration a run."""
    reward = (
        [f"module.reward.name={given['reward']}"]
        if "reward" in given
        else [
            "~module.reward",
            "+module.reward={_target_: hydra.utils.get_method, path: ppo_iteration.constant_reward}",
            f"module.value.name={given['policy']}",
            "module.value.head=new",
        ]
    )
    overrides = [
        f"model.name={given['policy']}",
        *reward,
        f"data.train={given['prompts']}",
        "data.iterations=100000",
        f"data.rollout_batch_size={episodes}",
        f"module.minibatch_size={arguments.minibatch}",
        f"module.max_new_tokens={arguments.max_new_tokens}",
        f"module.epochs={arguments.epochs}",
        f"module.learning_rate={arguments.learning_rate}",
        f"module.value_learning_rate={arguments.learning_rate}",
        *([f"model.attn_implementation={arguments.attention}"] if arguments.attention else []),
    ]
    compiled = name == COMPILED
    if name in (LEAN, COMPILED):
        overrides += LEAN_OPTIONS
    callback = {"_target_": "phases.Rollouts" if arguments.rollouts_only else "phases.Phases"}
    return sides.stage(name, "ppo", arguments, overrides, callback, compiled=compiled)


def peer(name: str, given: dict[str, str], arguments: argparse.Namespace) -> Contestant:
    """TRL's side of the same work."""
    settings: dict[str, Any] = {
        **given,
        "episodes": arguments.episodes,
        "minibatches": arguments.episodes // arguments.minibatch,
        "epochs": arguments.epochs,
        "max_new_tokens": arguments.max_new_tokens,
        "dtype": arguments.dtype,
        "attention": None if name == AS_IT_COMES else arguments.attention,
        "frozen_bf16": name != AS_IT_COMES,
        "learning_rate": arguments.learning_rate,
    }
    return Contestant(name, arguments.peer, "peers/trl_ppo.py", settings)


def needs(
    prompts: list[int], responses: list[int], shapes: Shapes, arguments: argparse.Namespace, *, rescored: bool = True
) -> dict[str, Need]:
    """What each phase of an iteration needs, without padding: logits at response tokens alone, rewards and values
    without any; values and log-probabilities of the reference, and with ``rescored`` of the policy, once before the
    updates."""
    lengths = [one + other for one, other in zip(prompts, responses, strict=True)]
    written, tokens = float(sum(responses)), float(sum(lengths))
    plain, logits = shapes.forward(lengths), shapes.forward(lengths, written)
    rows = max(round(tokens / len(lengths) * arguments.minibatch), 1)
    decoded = max(round(written / arguments.max_new_tokens), 1)  # rows alive in a decoding step, on average
    # The last token of a response is sampled and never read.
    rollout = shapes.forward([length - 1 for length in lengths], written)
    epochs = arguments.epochs
    return {
        "rollout": Need(rollout, written, decoded),
        "score": Need(plain, tokens, round(tokens), head=False),
        "evaluate": Need((1 + rescored) * logits + plain, tokens, rows),
        "forward": Need(epochs * (logits + plain), epochs * tokens, rows),
        "backward": Need(2.0 * epochs * (logits + plain), epochs * tokens, rows, backward=True),
    }


def episode_lengths(runs: list[Run]) -> tuple[list[int], list[int]]:
    """Of prompts and responses, in the run whose responses are nearest to the median together."""
    middle = sorted(runs, key=lambda run: sum(run.figures["lengths"][1]))[len(runs) // 2]
    prompts, responses = middle.figures["lengths"]
    return prompts, responses


def mean_lengths(found: dict[str, list[Run]]) -> dict[str, float]:
    """Mean length of the responses by contestant."""
    figures = {name: [run.figures for run in runs] for name, runs in found.items()}
    return {
        name: statistics.mean(
            figure["mean_length"] if "mean_length" in figure else statistics.mean(figure["lengths"][1])
            for figure in told
        )
        for name, told in figures.items()
    }


def scaling(arguments: argparse.Namespace, folder: Path) -> None:
    """Time per episode against the number of episodes of an iteration."""
    sizes = {f"{size} episodes": size for size in arguments.scaling}
    contestants = [ours(name, inputs(arguments, folder, size), arguments, size) for name, size in sizes.items()]
    found = alternate(contestants, runs=arguments.runs, threads=arguments.threads)
    tokens = {name: float(sum(sum(part) for part in episode_lengths(runs))) for name, runs in found.items()}
    print_duel(found, tokens, f"PPO iterations of several sizes, {arguments.dtype}, {arguments.threads} threads")
    each = {name: median(runs) / sizes[name] for name, runs in found.items()}
    first = next(iter(each.values()))
    for name, seconds in each.items():
        print(f"{name}: {1e3 * seconds:.2f} ms each, {seconds / first - 1:+.1%}")
    save(arguments.json, found, per_episode=each)


def options() -> argparse.ArgumentParser:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--model", help="folder or hub id of a causal language model; by default one is made")
    made.add_argument("--reward", help="folder of a reward model, which the value model starts from too")
    made.add_argument("--prompts", help='file of rows {"prompt"}')
    made.add_argument("--ending", choices=MEAN_LENGTHS, default="never", help="of responses of the made policy")
    made.add_argument("--episodes", type=int, default=64)
    made.add_argument("--minibatch", type=int, default=16)
    made.add_argument("--max-new-tokens", type=int, default=64)
    made.add_argument("--epochs", type=int, default=1)
    made.add_argument("--learning-rate", type=float, default=1e-6)
    made.add_argument("--scaling", type=int, nargs="+", metavar="EPISODES", help="iterations of these sizes instead")
    made.add_argument("--attention", help="attn_implementation of all models of both sides; default: transformers' own")
    made.set_defaults(rollouts_only=False)
    return made


def main() -> None:
    arguments = options().parse_args()
    if arguments.model and not arguments.prompts:
        raise SystemExit("--model needs --prompts")
    with workplace(arguments.folder) as folder:
        if arguments.scaling:
            scaling(arguments, folder)
            return
        given = inputs(arguments, folder, arguments.episodes)
        sides_of_ours = [OURS, LEAN, *([COMPILED] if arguments.compile else [])]
        contestants = [ours(name, given, arguments, arguments.episodes) for name in sides_of_ours]
        if arguments.peer:
            if lines(given["prompts"]) < arguments.episodes or "reward" not in given:
                raise SystemExit("the peer needs --reward and as many prompts as episodes")
            names = [PEER, *([AS_IT_COMES] if arguments.dtype == "bf16" else [])]
            contestants += [peer(name, given, arguments) for name in names]
        found = alternate(contestants, runs=arguments.runs, threads=arguments.threads)
        shapes = Shapes.of(given["policy"])
        lengths = episode_lengths(found[OURS])
        shares = {}
        for name in sides_of_ours:
            need = needs(*lengths, shapes, arguments, rescored=name == OURS)
            shares[name] = phase_shares(found[name], need, shapes, arguments.dtype)
    work = f"PPO iteration: {arguments.episodes} episodes, {arguments.dtype}, {arguments.threads} threads"
    for name, share in shares.items():
        print_phases(share, f"{name}, {work}")
    means = mean_lengths(found)
    print_duel(found, dict.fromkeys(found, float(sum(map(sum, lengths)))), work)
    for name, mean in means.items():
        print(f"{name}: mean response {mean:.1f} of {arguments.max_new_tokens} tokens")
    save(arguments.json, found, phases=shares, mean_lengths=means)


if __name__ == "__main__":
    main()
