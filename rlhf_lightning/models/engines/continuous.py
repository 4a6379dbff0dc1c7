"""The engine over transformers' continuous batching."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ContinuousBatchingConfig, GenerationConfig

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.compiler import uncompiled
from rlhf_lightning.models.context import text_config
from rlhf_lightning.models.engines.agreement import check_agreement
from rlhf_lightning.models.engines.attention import attending
from rlhf_lightning.models.generation import (
    INSTEAD,
    Generation,
    as_lists,
    check_request,
    draw_seeds,
    generation_of_lists,
)
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.sharding import is_sharded


class ContinuousEngine:
    """Samples with transformers' continuous batching; a :class:`~rlhf_lightning.models.RolloutEngine`.

    Prompts and responses of all rows stand in one sequence over a paged cache, so that nothing is padded and a row's
    place is free once it has ended. It pays on a GPU with ``model.attn_implementation=flash_attention_2``; with sdpa
    or eager attention every token is multiplied with the cached keys of all rows, under a mask.

    The forward passes run in a thread of their own, which autocast does not reach: they compute in the dtype of the
    weights. A manager and its cache live for one call, because cached keys are wrong once the weights have changed.

    Args:
        page_size: tokens of a page of the cache; every row holds whole pages.
        cache_tokens: tokens that the cache has room for; rows wait until there is room. ``None``: all rows at once.
        batch_tokens: most tokens of one forward pass.
    """

    def __init__(self, *, page_size: int = 256, cache_tokens: int | None = None, batch_tokens: int = 2048) -> None:
        for name, value, least in (
            ("page_size", page_size, 4),
            ("cache_tokens", cache_tokens, page_size),
            ("batch_tokens", batch_tokens, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"rollout.engine.{name}={value} must be at least {least}")
        self.page_size, self.cache_tokens, self.batch_tokens = page_size, cache_tokens, batch_tokens

    def check(self, model: nn.Module) -> None:
        """Refuse models whose passes are collectives, and those that continuous batching computes otherwise than their
        own forward pass does: ALiBi and soft-capped attention, whose biases it leaves out. What it samples is compared
        with the forward pass once.

        Raises:
            UserError: it cannot sample from this model.
        """
        _refuse_unable(model)
        check_agreement(self, model, key="rollout=continuous", instead=INSTEAD)

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
        check_request(model, lengths, max_new_tokens=max_new_tokens, temperature=temperature, greedy=greedy)
        _refuse_unable(model)
        prompts = as_lists(input_ids, lengths)
        settings: dict[str, Any] = {"do_sample": False} if greedy else {"do_sample": True, "temperature": temperature}
        settings |= {} if greedy else {"top_k": 0, "top_p": 1.0}
        generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers' own has no types
            max_new_tokens=max_new_tokens, eos_token_id=eos_token_id, pad_token_id=pad_token_id, **settings
        )
        (seed,) = draw_seeds(1, generator)
        config = self._config(model, [len(prompt) + max_new_tokens for prompt in prompts], seed)
        own = _own_randomness(input_ids.device), _own_garbage()
        with generation_mode(model), attending(model), uncompiled(), own[0], own[1]:
            outputs = _run(model, prompts, generation_config, config)
        drawn = [output.generated_tokens for output in outputs], [output.logprobs for output in outputs]
        ends: dict[str, Any] = {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        return generation_of_lists(*drawn, **ends, device=input_ids.device)

    def _config(self, model: nn.Module, lengths: list[int], seed: int) -> ContinuousBatchingConfig:
        """Sizes are given, since transformers would take them from the memory that is free."""
        pages = [-(-length // self.page_size) for length in lengths]
        blocks = sum(pages)
        if self.cache_tokens is not None:
            blocks = min(blocks, self.cache_tokens // self.page_size)
            if blocks < max(pages):
                raise UserError(
                    f"rollout.engine.cache_tokens={self.cache_tokens} holds {blocks} pages of {self.page_size} tokens, "
                    f"and a prompt with its response takes {max(pages)}; raise it to at least "
                    f"{max(pages) * self.page_size}"
                )
        kinds = len(set(getattr(text_config(model), "layer_types", None) or [None]))  # each kind of layer has its own
        return ContinuousBatchingConfig(
            page_size=self.page_size,
            num_blocks=blocks * kinds,
            max_batch_tokens=self.batch_tokens,
            max_requests_per_batch=len(lengths),
            safety_margin=None if blocks < sum(pages) else 0.0,  # where all rows have room, none waits for more
            return_logprobs=True,
            seed=seed,
            auto_switch_to_flash=False,  # model.attn_implementation says it
            disable_nccl_graph_mixing=False,  # it would change the environment of the process
        )


def _refuse_unable(model: nn.Module) -> None:
    if is_sharded(model):
        raise UserError(
            "rollout=continuous cannot sample from a sharded model: every process would have to make the same passes; "
            f"{INSTEAD}, or strategy=ddp"
        )
    if not hasattr(model, "init_continuous_batching"):
        raise UserError(f"rollout=continuous needs a model of transformers, not {type(model).__name__}; {INSTEAD}")
    attention = str(model.config._attn_implementation)  # type: ignore[union-attr]  # a transformers model
    if getattr(text_config(model), "attn_logit_softcapping", None) and "flash" not in attention:
        raise UserError(
            f"rollout=continuous leaves out the soft cap on the attention of {type(model).__name__} under "
            f"model.attn_implementation={attention}; {INSTEAD}"
        )


def _run(
    model: Any, prompts: list[list[int]], generation_config: GenerationConfig, config: ContinuousBatchingConfig
) -> list[Any]:
    """The results in the order of the prompts."""
    try:
        manager = model.init_continuous_batching(generation_config=generation_config, continuous_batching_config=config)
    except ValueError as error:
        raise UserError(f"rollout=continuous: {error}; {INSTEAD}") from error
    found: dict[str, Any] = {}
    # All requests wait before the first pass: what is drawn then does not depend on how fast they come in.
    names = manager.add_requests(prompts)
    manager.start()
    try:
        while len(found) < len(names):
            result = manager.get_result(timeout=1)
            if result is not None:
                found[result.request_id] = result
            elif not manager.is_running():
                break
    finally:
        manager.stop(block=True, hard_stop=len(found) < len(names))
        manager.destroy()
    for row, name in enumerate(names):
        fault = found[name].error if name in found else "its thread ended without a result"
        if fault is not None:
            raise UserError(
                f"rollout=continuous stopped at row {row}: {fault}. If the logits are no numbers, lower "
                f"module.learning_rate or start from an earlier checkpoint; for other reasons {INSTEAD}"
            )
    return [found[name] for name in names]


@contextlib.contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Continuous batching seeds and uses the process's own stream, which is put back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _own_garbage() -> Iterator[None]:
    """At its end continuous batching collects garbage more than once, which takes a second where much is in memory:
    what was there before is left out, unless somebody else has frozen objects."""
    ours = not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
