"""Rollouts that are sampled an iteration early, while the updates before them run (``rollout.async=true``)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_lightning.data import PromptBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Generation, PaddingFreeLogprobs, TokenLogprobs
from rlhf_lightning.modules.experience import Logprobs, behaviour_logprobs
from rlhf_lightning.modules.ppo_update import rollout_micro_batches
from rlhf_lightning.modules.randomness import rollout_seed
from rlhf_lightning.modules.trajectory import Trajectory

if TYPE_CHECKING:
    from rlhf_lightning.modules.ppo import PPOModule

_OFF = "or set rollout.async=false"


class AsyncRollouts:
    """One-step-late rollouts: iteration i learns from responses of the policy that iteration i − 1 began with.

    While the updates of iteration i move the policy from θ_i to θ_{i+1}, a thread (on a GPU with a stream of its own)
    samples the responses of iteration i + 1 from a copy of θ_i and takes their log-probabilities under it with the
    update's forward function (with ``old_logprobs=engine`` those that the engine drew with). The ratio of iteration i
    + 1 is ``π_θ(y) / π_{θ_i}(y)``, θ beginning at θ_{i+1}, and clipping corrects for it as for every other; KL and
    rewards are of θ_i, which sampled. Values are those of the value model as it is. The first iteration of an epoch,
    for which nothing was sampled, samples on the spot.

    The thread ends within the step that started it, so that validations, callbacks and checkpoints never meet it. A
    checkpoint holds the responses that the next iteration learns from with their log-probabilities, for every process;
    a run that goes on with another number of processes, or other prompts, samples them anew from its policy, and so
    does one that had ended and is made longer, because a last iteration samples nothing. Each iteration's randomness
    comes from (seed, iteration, process) alone, so the thread's pace changes nothing.

    Only trained weights are copied, such as an adapter's; the copy shares what is frozen. The prompts of the next
    iteration are read from ``PromptBatch.ahead``.

    Args:
        enabled: without it every iteration samples on the spot, from the module's own generator.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.saved: list[dict[str, Tensor] | None] = []  # of a checkpoint, one for each process
        self._stream: Any = None  # the thread's on a GPU, kept because torch keeps memory by stream
        self._ready: tuple[PromptBatch, Generation] | None = None
        self._copy: nn.Module | None = None
        self._logprobs: Logprobs | None = None

    def check(self, module: PPOModule) -> None:
        """Refuse what cannot sample beside training.

        Raises:
            UserError: sharded weights, whose passes are collectives in an order that all processes share; an engine
                that does not say that it can (``beside_training``); a ``rollout`` of one's own without ``policy``.
        """
        if not isinstance(self.enabled, bool):
            raise UserError(f"rollout.async={self.enabled} must be true or false")
        if not self.enabled:
            return
        if module.world.sharded:
            raise UserError(
                "rollout.async=true samples beside the updates, and the passes of sharded weights cannot run side by "
                f"side: use strategy=ddp, {_OFF}"
            )
        if not getattr(module.engine, "beside_training", False):
            raise UserError(
                f"rollout.async=true samples in a thread beside the updates, which {type(module.engine).__name__} is "
                f"not made for (as set): take rollout=native without rollout.engine.compile, {_OFF}"
            )
        if "policy" not in inspect.signature(module.rollout).parameters:
            raise UserError(
                f"rollout.async=true samples from a copy of the policy: {type(module).__name__}.rollout must take it "
                f"as a third argument, policy, {_OFF}"
            )

    def responses(self, module: PPOModule, prompts: PromptBatch) -> Generation:
        """The responses that this iteration learns from; those sampled early have ``behaviour``."""
        if not self.enabled:
            return module.rollout(prompts, module.generator)
        if self.saved:
            mine = self.saved[module.world.rank] if len(self.saved) == module.world.size else None
            self.saved, self._ready = [], None if mine is None else _unpacked(mine, prompts)
        if self._ready is not None and _same(self._ready[0], prompts) and _enough(self._ready[1], module.old_logprobs):
            return self._ready[1]
        return module.rollout(prompts, self._generator(module, module.iterations))

    @contextmanager
    def sampling(self, module: PPOModule, prompts: PromptBatch, batch_idx: int) -> Iterator[None]:
        """Within it the responses of the next iteration are sampled, if there is one.

        Raises:
            UserError: the batch does not tell the prompts of the next iteration; what sampling raises.
        """
        if not self.enabled or _is_last(module, prompts, batch_idx):
            self._copy = self._logprobs = None  # its memory is free for what comes behind training
            yield
            self._ready = None
            return
        ahead = prompts.ahead
        if ahead is None:
            raise UserError(
                "rollout.async=true samples for the next iteration, and this batch does not name its prompts: train on "
                f"a PromptDataModule, give PromptBatch(..., ahead=the next batch's), {_OFF}"
            )
        policy, logprobs = self._behaviour(module)
        generator = self._generator(module, module.iterations + 1)
        if module.device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(module.device)  # type: ignore[no-untyped-call]  # torch's own has no types
        entered = _same_context(module.device, self._stream)

        def sample() -> Generation:
            with entered():
                generation = module.rollout(ahead, generator, policy)
                if module.old_logprobs == "engine":
                    return generation
                trajectory = Trajectory.begin(ahead, generation, module.encoder.pad_token_id)
                parts = rollout_micro_batches(module, trajectory.lengths)
                return generation._replace(behaviour=behaviour_logprobs(trajectory, logprobs, parts))

        with ThreadPoolExecutor(1, thread_name_prefix="rollout") as thread:  # waits, also where the updates fail
            sampled = thread.submit(sample)
            yield
            self._ready = ahead, _own(sampled.result())

    def state(self) -> dict[str, Tensor] | None:
        """What a checkpoint keeps of this process's responses."""
        if self._ready is None:
            return None
        prompts, generation = self._ready
        parts = {"prompt_ids": prompts.input_ids, "prompt_lengths": prompts.lengths}
        parts |= {name: part for name, part in generation._asdict().items() if isinstance(part, Tensor)}
        if generation.behaviour is not None:
            parts["policy_logprobs"], parts["policy_entropy"] = generation.behaviour
        return {name: part.cpu() for name, part in parts.items()}

    def _generator(self, module: PPOModule, iteration: int) -> torch.Generator:
        seed = rollout_seed(module.seed, iteration, module.world.rank)
        return torch.Generator(module.device).manual_seed(seed)

    @torch.no_grad()
    def _behaviour(self, module: PPOModule) -> tuple[nn.Module, Logprobs]:
        """The copy with the weights that the policy has now. It stays the same object, for what is kept about it."""
        if self._copy is None or self._logprobs is None:
            self._copy = copy_of_trained(module.policy)
            padded = TokenLogprobs(self._copy, temperature=module.temperature)
            self._logprobs = PaddingFreeLogprobs(padded) if module.padding_free else padded
        else:
            for target, source in zip(_tensors(self._copy), _tensors(module.policy), strict=True):
                if target is not source:
                    target.copy_(source)
        self._copy.train(module.policy.training)
        return self._copy, self._logprobs


def copy_of_trained(model: nn.Module) -> nn.Module:
    """The model again, with trained parameters and buffers of its own and the same frozen ones."""
    shared: dict[int, Any] = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    for part in model.modules():  # bitsandbytes keeps the weights of a layer a second time by the same storage
        beside = getattr(getattr(part, "state", None), "__dict__", {})
        shared |= {id(tensor): tensor for tensor in beside.values() if isinstance(tensor, Tensor)}
    return copy.deepcopy(model, shared)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _is_last(module: PPOModule, prompts: PromptBatch, batch_idx: int) -> bool:
    """Whether no iteration of this epoch follows, as far as the trainer can know."""
    trainer = module.trainer
    steps = module.epochs * (len(prompts.lengths) * module.world.size // module.minibatch_size)
    ends = 0 < trainer.max_steps <= trainer.global_step + steps
    return ends or batch_idx + 1 >= trainer.num_training_batches


def _enough(generation: Generation, old: str) -> bool:
    """Whether it is known what the ratio counts from: a run with ``old_logprobs=engine`` may have saved them."""
    return old == "engine" or generation.behaviour is not None


def _same(one: PromptBatch, other: PromptBatch) -> bool:
    return torch.equal(one.input_ids, other.input_ids) and torch.equal(one.lengths, other.lengths)


def _unpacked(saved: dict[str, Tensor], prompts: PromptBatch) -> tuple[PromptBatch, Generation]:
    """What :meth:`AsyncRollouts.state` kept, beside the texts of ``prompts``."""
    found = {name: part.to(prompts.input_ids.device) for name, part in saved.items()}
    batch = PromptBatch(found.pop("prompt_ids"), found.pop("prompt_lengths"), prompts.prompts)
    behaviour = (found.pop("policy_logprobs"), found.pop("policy_entropy")) if "policy_logprobs" in found else None
    return batch, Generation(**found, behaviour=behaviour)


def _own(generation: Generation) -> Generation:
    """On a GPU, copies that belong to this thread's stream: torch may give memory of another stream away before it is
    read here."""
    if not generation.response_ids.is_cuda:
        return generation

    def taken(part: Any) -> Any:
        return part.clone() if isinstance(part, Tensor) else part and tuple(taken(one) for one in part)

    return Generation(*(taken(part) for part in generation))


def _same_context(device: torch.device, there: Any) -> Callable[[], Any]:
    """What makes a thread compute as this one does: its autocast, and on a GPU a stream, ``there``, that begins behind
    this one's work and is empty at the end."""
    kind = device.type
    casts: Any = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
    here = torch.cuda.current_stream(device) if kind == "cuda" else None
    if here is not None:
        there.wait_stream(here)

    @contextmanager
    def entered() -> Iterator[None]:
        with ExitStack() as stack:
            if there is not None:
                stack.enter_context(torch.cuda.stream(there))
            stack.enter_context(torch.autocast(kind, **casts, cache_enabled=False))
            yield
        if there is not None:
            there.synchronize()  # in this thread, so that the other one's work goes on

    return entered
