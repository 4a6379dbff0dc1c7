"""The passes that a process makes in an iteration, and the bytes that it exchanges with the others.

An iteration is one of PPO, and one optimizer step elsewhere. Letters: n processes, W and G bytes of a role's weights
and gradients. Rows are as long as the longest, and every response is, so that all of it is an upper bound. What else is
exchanged, token ids, statistics and norms, is little beside it and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rlhf_lightning.planning.memory import gradient_bytes
from rlhf_lightning.planning.processes import Strategy
from rlhf_lightning.planning.run import PlannedRun


class Passes(NamedTuple):
    """Passes of one process in a phase of an iteration.

    Args:
        phase: ``rollout``, ``score``, ``evaluate`` or ``update``.
        role: whose model is read.
        number: of passes.
        tokens: that they read together.
        backward: whether each is followed by a backward pass.
    """

    phase: str
    role: str
    number: int
    tokens: int
    backward: bool = False


def all_reduce_bytes(size: float, processes: int) -> float:
    """A ring all-reduce of ``size`` bytes: each process sends ``2 (n − 1)/n · size``."""
    return 2 * (processes - 1) / processes * size


def all_gather_bytes(size: float, processes: int) -> float:
    """An all-gather to ``size`` bytes, or a reduce-scatter of them: each process sends ``(n − 1)/n · size``."""
    return (processes - 1) / processes * size


def iteration_passes(run: PlannedRun, processes: int = 1) -> Iterator[Passes]:
    """The passes of one of n processes, whose share of a batch of b is ``ceil(b/n)``.

    - ``rollout``: one over the prompts and one for each further token of the longest response.
    - ``score``: over ``reward_batch_size`` episodes at a time.
    - ``evaluate``: policy, reference and value, over a micro-batch at a time.
    - ``update``: for each minibatch of each epoch, policy and value over its micro-batches, and the policy over those
      of its pretraining text, each forward and backward.
    """
    rows = -(-run.minibatch_size // processes)
    micro = min(run.micro_batch_size, rows)
    if run.stage != "ppo":
        (role,) = run.roles
        each = run.completions if run.stage == "reward" else 1
        yield Passes("update", role, -(-rows // micro), rows * each * run.tokens, backward=True)
        return
    episodes = -(-run.rollout_batch_size // processes)
    # The last token of a response is sampled and not read.
    yield Passes("rollout", "policy", run.new_tokens, episodes * (run.tokens - 1))
    if "reward" in run.read:
        yield Passes("score", "reward", -(-episodes // run.reward_batch_size), episodes * run.tokens)
    for role in ("policy", "reference", "value"):
        if role in run.read:
            yield Passes("evaluate", role, -(-episodes // micro), episodes * run.tokens)
    steps = optimizer_steps(run)
    for role in ("policy", "value"):
        if role in run.read:
            yield Passes("update", role, steps * -(-rows // micro), steps * rows * run.tokens, backward=True)
    if run.text_rows:
        text = -(-run.text_rows // processes)
        yield Passes("update", "policy", steps * -(-text // micro), steps * text * run.text_block, backward=True)


def optimizer_steps(run: PlannedRun) -> int:
    """Of an iteration: ``epochs · rollout / minibatch`` of PPO, 1 elsewhere."""
    return run.epochs * max(1, run.rollout_batch_size // run.minibatch_size) if run.stage == "ppo" else 1


def bytes_moved(run: PlannedRun, strategy: Strategy, processes: int) -> Mapping[str, float]:
    """Bytes that a process sends in an iteration, by phase; as many come in.

    - A replica sums its gradients once an optimizer step: ``2 (n − 1)/n · G``.
    - A shard gathers the weights of a role for each forward pass, ``(n − 1)/n · W``; for each backward pass gathers
      them once more and scatters the sum of its gradients, ``(n − 1)/n · (W + G)``, also where several passes make
      one step. A rollout gathers the policy once for each token.
    """
    moved: dict[str, float] = {}
    if strategy == "fsdp2":
        for phase, role, number, _, backward in iteration_passes(run, processes):
            size = run.read[role]
            whole = size.weight_bytes * (2 if backward else 1) + (gradient_bytes(size) if backward else 0.0)
            moved[phase] = moved.get(phase, 0.0) + number * all_gather_bytes(whole, processes)
    else:
        trained = sum(gradient_bytes(size) for role, size in run.roles.items() if run.trains(role))
        moved["update"] = optimizer_steps(run) * all_reduce_bytes(trained, processes)
    return moved
