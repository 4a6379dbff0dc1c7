"""The engine that needs nothing but the model's forward pass."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional import sample_tokens
from rlhf_lightning.models.compiler import uncompiled
from rlhf_lightning.models.engines.agreement import check_agreement
from rlhf_lightning.models.engines.attention import attending
from rlhf_lightning.models.engines.autocast import cached_casts
from rlhf_lightning.models.engines.blocks import block_for
from rlhf_lightning.models.engines.compiled import Compiled
from rlhf_lightning.models.engines.next_logits import NextLogits
from rlhf_lightning.models.engines.packed import packed_weights
from rlhf_lightning.models.engines.prompts import Prompts, read_prompts
from rlhf_lightning.models.engines.steps import EagerSteps, Steps
from rlhf_lightning.models.generation import Generation, as_generation, check_numbers, check_request
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.policy import check_own, is_own, sample_own
from rlhf_lightning.models.sharding import any_rank, is_sharded

# Steps between two looks at who has ended: to look, a GPU must have finished, while a CPU has.
_LOOK = {"cpu": 1}
_LOOK_LATER = 8


class NativeEngine:
    """Samples with the model itself and a KV cache of the final size; a :class:`~rlhf_lightning.models.RolloutEngine`.

    Prompts are read once each, those of like length together. A row that has ended leaves the batch and its cache,
    and decoding stops when all have ended: of a sharded model, those of every process, because each step is a
    collective. Processes then give equally many prompts.

    A policy of one's own (:class:`~rlhf_lightning.models.Policy`) samples with its own method.

    Args:
        batch_size: prompts decoded together, in order of length; ``None``: all.
        compile: decode under ``torch.compile``, on a GPU as CUDA graphs: rows and columns then come in few sizes, each
            of which is compiled once. Rows leave when half have ended. For models whose layers keep all tokens.
        attn_implementation: to decode with; ``None``: the model's own.
        pack_weights: on a CPU, decode with copies of the linear layers' weights in the order in which oneDNN
            multiplies them: faster, and once more the memory of those weights while a response is sampled, under
            autocast no more than without. Not with ``compile``.
    """

    def __init__(
        self,
        *,
        batch_size: int | None = None,
        attn_implementation: str | None = None,
        compile: bool = False,
        pack_weights: bool = True,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size={batch_size}: at least one prompt is decoded at a time")
        self.batch_size = batch_size
        self.attn_implementation = attn_implementation
        self.pack_weights = pack_weights
        self.beside_training = not compile  # CUDA graphs belong to the thread that recorded them
        self._compiled = Compiled() if compile else None

    def check(self, model: nn.Module) -> None:
        """It samples from every model that PPO trains; not every one can be compiled.

        Raises:
            UserError: ``compile`` or ``attn_implementation``, and the model or this machine cannot; a model of one's
                own that does not sample what its logits say.
        """
        check_own(model, None, samples=True)
        own = self.attn_implementation
        for key, given, off in (("compile", self._compiled, "false"), ("attn_implementation", own, "null")):
            if given is not None and is_own(model):
                raise UserError(
                    f"rollout.engine.{key} is for decoding models of transformers; {type(model).__name__} samples by "
                    f"itself: set rollout.engine.{key}={off}"
                )
        if own is not None and "flash" in own:  # which runs on a GPU alone, where the model may not be yet
            with attending(model, own):
                pass  # refused here if it is not there
        elif own is not None:
            key = f"rollout.engine.attn_implementation={own}"
            check_agreement(
                NativeEngine(attn_implementation=own), model, key=key, instead="set it to null or to the model's own"
            )
        if self._compiled is None:
            return
        self._compiled.check(model)
        # What is compiled is what this would run; the static cache is what some models read otherwise.
        alike = NativeEngine()
        alike._compiled = Compiled(compile=False)
        check_agreement(alike, model, key="rollout.engine.compile=true", instead="set rollout.engine.compile=false")

    def generate(
        self,
        model: nn.Module,
        input_ids: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int,
        eos_token_id: int,
        pad_token_id: int,
        temperature: float = 1.0,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """As :meth:`RolloutEngine.generate <rlhf_lightning.models.RolloutEngine.generate>`."""
        if is_own(model):
            return sample_own(
                model,
                input_ids,
                lengths,
                max_new_tokens=max_new_tokens,
                eos_token_id=eos_token_id,
                pad_token_id=pad_token_id,
                temperature=temperature,
                greedy=greedy,
                generator=generator,
                batch_size=self.batch_size,
            )
        check_request(model, lengths, max_new_tokens=max_new_tokens, temperature=temperature, greedy=greedy)
        count = len(input_ids)
        # A validation's inference mode would have every shape compiled a second time.
        inference = torch.is_inference_mode_enabled() and self._compiled is None
        passes = nullcontext() if self._compiled is not None and self._compiled.compile else uncompiled()
        casts, attends = cached_casts(input_ids.device.type), attending(model, self.attn_implementation)
        packed = packed_weights(model) if self.pack_weights and self._compiled is None else nullcontext()
        with torch.inference_mode(inference), generation_mode(model), casts, attends, passes, packed:
            response_ids = torch.full((count, max_new_tokens), pad_token_id, dtype=torch.long, device=input_ids.device)
            logprobs = torch.zeros((count, max_new_tokens), dtype=torch.float32, device=input_ids.device)
            decoding = _Decoding(
                model, response_ids, logprobs, eos_token_id, None if greedy else temperature, generator, self._compiled
            )
            for rows in torch.split(torch.argsort(lengths, stable=True), self.batch_size or count):
                decoding.run(rows, input_ids[rows], lengths[rows])
        return as_generation(response_ids, logprobs, eos_token_id=eos_token_id)


class _Decoding:
    """The loop over steps. ``temperature=None`` is greedy."""

    def __init__(
        self,
        model: nn.Module,
        response_ids: Tensor,
        logprobs: Tensor,
        eos_token_id: int,
        temperature: float | None,
        generator: torch.Generator | None,
        compiled: Compiled | None,
    ) -> None:
        self.compiled = compiled
        self.model, self.read = model, NextLogits(model)
        self.response_ids, self.logprobs = response_ids, logprobs
        self.eos_token_id, self.temperature, self.generator = eos_token_id, temperature, generator
        self.look = _LOOK.get(response_ids.device.type, _LOOK_LATER)

    def run(self, rows: Tensor, input_ids: Tensor, lengths: Tensor) -> None:
        """Decode the prompts together, writing into the given ``rows`` of the results."""
        steps = self.response_ids.shape[1]
        with uncompiled():
            block = None if self.compiled is not None else block_for(self.model, int(lengths.max()) + steps)
            prompts = read_prompts(self.model, self.read, input_ids, lengths, room=steps - 1, block=block)
        logits, decode = prompts.logits, self.steps(prompts, steps - 1)
        del prompts  # its cache may have been copied
        alive = torch.ones_like(rows, dtype=torch.bool)
        unfinished = any_rank if is_sharded(self.model) else bool
        for step in range(steps):
            chosen, logprobs = self.choose(logits)
            self.response_ids[rows, step] = torch.where(alive, chosen, self.response_ids[rows, step])
            self.logprobs[rows, step] = torch.where(alive, logprobs, 0.0)
            alive = alive & (chosen != self.eos_token_id)
            if step + 1 == steps:
                break
            if (step + 1) % self.look == 0:
                self.check(rows, step)
                remaining = int(alive.sum())
                if not unfinished(remaining > 0):
                    break
                count = decode.going_on(remaining, len(alive))
                if count < len(alive):
                    # A process that has nothing left steps on with rows that have ended for the others' sake.
                    kept = torch.argsort(~alive, stable=True)[:count].sort().values
                    decode.keep(kept)
                    rows, chosen, alive = rows[kept], chosen[kept], alive[kept]
            logits = decode(chosen)
        self.check(rows, step)

    def steps(self, prompts: Prompts, steps: int) -> Steps:
        """What decodes behind prompts that have been read."""
        if self.compiled is None:
            return EagerSteps(self.read, prompts, steps)
        return self.compiled.steps(self.model, self.read, prompts, steps)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of every row and its log-probability, [b] each."""
        if self.temperature is None:
            best, chosen = logits.max(-1)
            return chosen, best - logits.logsumexp(-1)
        return sample_tokens(logits / self.temperature, generator=self.generator)

    def check(self, rows: Tensor, step: int) -> None:
        """Refuse tokens that were drawn from what is no distribution."""
        check_numbers(self.logprobs[rows, : step + 1], rows)


def generate(
    model: nn.Module,
    input_ids: Tensor,
    lengths: Tensor,
    *,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Generation:
    """Sample one response for each prompt with a :class:`NativeEngine`.

    Args:
        batch_size: prompts decoded together; all by default. The others are those of
            :meth:`RolloutEngine.generate <rlhf_lightning.models.RolloutEngine.generate>`.
    """
    return NativeEngine(batch_size=batch_size).generate(
        model,
        input_ids,
        lengths,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        temperature=temperature,
        greedy=greedy,
        generator=generator,
    )
