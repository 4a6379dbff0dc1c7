"""What sharded processes hold and send, and when they stop, for test_sharding.py."""

from __future__ import annotations

import contextlib
import os
from typing import Any
from unittest import mock

import lightning as L
import torch
import torch.distributed as dist
from stage_runs import Reproducible, ppo_data, ppo_module
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel
from watching import Watch, state, trainer

from rlhf_lightning.data import DemonstrationDataModule, Encoder
from rlhf_lightning.models import RewardModelScorer, generate, load_causal_lm, reward_of_first
from rlhf_lightning.modules import SFTModule


def staggered(*, world: int, strategy: str, model: str, files: dict[str, str]) -> dict[str, Any]:
    """Greedy responses of which rank 0's all end after one token and rank 1's never."""
    found: dict[str, Any] = {}

    class Sample(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            prompts = torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1], [11, 12, 13, 1]])
            lengths = torch.tensor([4, 2, 3])
            options: dict[str, Any] = {"pad_token_id": 1, "greedy": True}
            one = [
                generate(
                    pl_module.policy, p[None, :n], n[None], max_new_tokens=1, eos_token_id=-1, **options
                ).response_ids[0, 0]
                for p, n in zip(prompts, lengths, strict=True)
            ]
            # The prompts are the same for every rank; what ends a response is not.
            eos = int(one[0]) if trainer.global_rank == 0 else -1
            row = prompts[:1] if trainer.global_rank == 0 else prompts
            got = generate(pl_module.policy, row, lengths[: len(row)], max_new_tokens=40, eos_token_id=eos, **options)
            found.update(generation=tuple(got), weights=state(pl_module))
            trainer.should_stop = True

    module = SFTModule(policy=lambda: load_causal_lm(name=model), micro_batch_size=2)
    data = DemonstrationDataModule(encoder=Encoder.from_pretrained(model), train=files["demonstrations"], batch_size=8)
    trainer(strategy, world, Sample()).fit(module, data)
    return found


class Memory(L.Callback):
    """Bytes that this process holds for parameters, gradients and optimizer when it takes its last step."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        tensors: dict[str, list[Tensor]] = {"parameters": [*pl_module.parameters()]}
        tensors["gradients"] = [p.grad for p in pl_module.parameters() if p.grad is not None]
        tensors["optimizer"] = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        local = {name: [getattr(t, "_local_tensor", t) for t in held] for name, held in tensors.items()}
        self.bytes = {name: sum(t.numel() * t.element_size() for t in held) for name, held in local.items()}


def memory(
    *, world: int, strategy: str, model: str, files: dict[str, str], reward: str = "", **adapted: Any
) -> dict[str, Any]:
    """Bytes of the roles of PPO by kind, how often this process read weights, and the metrics; with the folder of a
    reward model, it is the reward."""
    held, reads = Memory(), 0

    def counted(read: Any) -> Any:
        def load(*arguments: Any, **options: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(*arguments, **options)

        return load

    kinds = (GPT2LMHeadModel, GPT2ForSequenceClassification)
    with contextlib.ExitStack() as patches:
        for kind in kinds:
            patches.enter_context(mock.patch.object(kind, "from_pretrained", counted(kind.from_pretrained)))
        own: dict[str, Any] = {}
        if reward:
            with reward_of_first(int(os.environ["RANK"]), strategy == "fsdp2"):  # as rlhf-train does
                own["reward"] = RewardModelScorer(name=reward)
        module = ppo_module(model, cls=Reproducible, adapted=adapted, **own)
        watch = Watch()
        trainer(strategy, world, held, watch).fit(module, ppo_data(model, files, iterations=2))
    return held.bytes | {"reads": reads, "steps": watch.steps, "reward": module.reward_fingerprint}


class Sent(L.Callback):
    """Bytes, whole, of the weights that FSDP2 gathers and of the gradients that it scatters in the second iteration."""

    def __init__(self) -> None:
        self.bytes = {"gathered": 0, "scattered": 0}
        self.patches = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:  # in the first one, heads are checked besides
            # Under their newer names and their older ones.
            for kind, names in (
                ("gathered", ("all_gather_single", "all_gather_into_tensor")),
                ("scattered", ("reduce_scatter_single", "reduce_scatter_tensor")),
            ):
                name = next(name for name in names if hasattr(dist, name))
                self.patches.enter_context(mock.patch.object(dist, name, self._counted(getattr(dist, name), kind)))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.patches.close()

    def _counted(self, send: Any, kind: str) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            tensors = [value for value in (*arguments, *options.values()) if torch.is_tensor(value)]
            self.bytes[kind] += max(tensor.nbytes for tensor in tensors)  # the other one is a shard
            return send(*arguments, **options)

        return counted


def traffic(*, world: int, strategy: str, model: str, files: dict[str, str], **adapted: Any) -> dict[str, int]:
    """What FSDP2 sends in an iteration of PPO-ptx whose responses may have 6 tokens."""
    sent = Sent()
    trainer(strategy, world, sent).fit(ppo_module(model, adapted=adapted), ppo_data(model, files, iterations=2))
    return dict(sent.bytes)
