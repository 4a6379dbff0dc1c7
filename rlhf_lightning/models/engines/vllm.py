"""The engine over vLLM, on the GPU that trains."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.engines.agreement import check_agreement
from rlhf_lightning.models.generation import (
    INSTEAD,
    Generation,
    as_lists,
    check_request,
    draw_seeds,
    generation_of_lists,
)
from rlhf_lightning.models.lora import has_adapters
from rlhf_lightning.models.quantization import is_quantized
from rlhf_lightning.models.sharding import is_sharded

_GROSS = 0.2  # nats a token: more than other kernels and reduced precision explain


class VllmEngine:
    """Samples with vLLM beside the training process; a :class:`~rlhf_lightning.models.RolloutEngine`.

    **This engine has not been run against a real vLLM**: it was written from vLLM's documentation and tested with a
    stand-in of the calls below. At the start of training a few samples are compared with the policy.

    The weights go through a folder: the policy is written there as ``save_pretrained`` does it whenever it has
    changed, and vLLM, which was started from that folder, reads them with ``collective_rpc("reload_weights")``, in
    the order that vLLM's guide to its sleep mode gives for new weights: ``sleep(level=2)`` after each rollout, so that
    training has the memory, then ``wake_up(["weights"])``, the weights, ``wake_up(["kv_cache"])``. Sampling knows
    neither top-k nor top-p nor the model's ``generation_config``, ends with our EOS alone, and reports
    log-probabilities at the temperature (``logprobs_mode=processed_logprobs``); PPO scores responses anew unless
    ``module.old_logprobs=engine``.

    Source: docs.vllm.ai, "Sleep Mode", "Engine Arguments", ``LLM`` and ``SamplingParams``.

    Args:
        gpu_memory_utilization: share of the GPU that vLLM may take beside what training holds.
        sleep: give the memory back between rollouts; the weights are then read for every call, changed or not.
        folder: where the weights go; one in memory (``/dev/shm/...``) is fastest. ``None``: a temporary folder.
        options: further arguments of ``vllm.LLM``, such as ``{max_model_len: 2048, dtype: bfloat16}``.
    """

    def __init__(
        self,
        *,
        gpu_memory_utilization: float = 0.3,
        sleep: bool = True,
        folder: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0.0 < gpu_memory_utilization <= 1.0:
            raise UserError(f"rollout.engine.gpu_memory_utilization={gpu_memory_utilization} must lie between 0 and 1")
        self.gpu_memory_utilization, self.sleep, self.options = gpu_memory_utilization, sleep, dict(options or {})
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="rollout-weights-")
        self.folder = folder or self._temporary.name  # type: ignore[union-attr]  # one of the two is there
        self._llm: Any = None
        self._handed_over: list[Any] = []
        self._asleep = False

    def check(self, model: nn.Module) -> None:
        """Refuse policies whose weights cannot be handed over as they are, start vLLM, and compare a few samples with
        the policy's own forward pass.

        Raises:
            UserError: vLLM is not installed; adapters, a quantised base, several processes; samples of something else.
        """
        _vllm()
        _refuse_unable(model)
        check_agreement(self, model, key="rollout=vllm", instead=INSTEAD, tolerance=_GROSS)

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
        vllm = _vllm()
        seeds = draw_seeds(len(input_ids), generator)
        settings: dict[str, Any] = {
            "temperature": 0.0 if greedy else temperature,
            "top_p": 1.0,
            "top_k": 0,
            "max_tokens": max_new_tokens,
            "ignore_eos": True,  # those of the model's configuration, of which there may be several
            "stop_token_ids": [eos_token_id] if eos_token_id >= 0 else [],
            "logprobs": 0,  # of the token that was drawn, of no others beside it
            "detokenize": False,
        }
        prompts = [{"prompt_token_ids": ids} for ids in as_lists(input_ids, lengths)]
        self._wake(vllm, model)
        try:
            outputs = self._llm.generate(
                prompts, [vllm.SamplingParams(seed=seed, **settings) for seed in seeds], use_tqdm=False
            )
        finally:
            if self.sleep:
                self._llm.sleep(level=2)
                self._asleep = True
        drawn = [output.outputs[0] for output in outputs]
        for row, one in enumerate(drawn):
            _check_end(row, list(one.token_ids), eos_token_id, max_new_tokens, one.finish_reason)
        ends: dict[str, Any] = {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        ids, logprobs = [list(one.token_ids) for one in drawn], [_logprobs(one) for one in drawn]
        return generation_of_lists(ids, logprobs, **ends, device=input_ids.device)

    def _wake(self, vllm: Any, model: nn.Module) -> None:
        """vLLM awake with the weights that the model has now, written only if they are others than it had."""
        weights = _state(model)
        changed = weights != self._handed_over
        if changed:
            model.save_pretrained(self.folder)  # type: ignore[operator]  # a transformers model
            self._handed_over = weights
        if next(model.parameters()).is_cuda:
            torch.cuda.empty_cache()  # what training's allocator holds unused
        if self._llm is None:
            self._llm = vllm.LLM(self.folder, **self._arguments(model))
            return
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        if changed or self._asleep:
            self._llm.collective_rpc("reload_weights")
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False

    def _arguments(self, model: nn.Module) -> dict[str, Any]:
        return {
            "skip_tokenizer_init": True,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_sleep_mode": self.sleep,
            "enable_prefix_caching": False,  # keys of earlier weights
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
        } | self.options


def _vllm() -> Any:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise UserError(f"rollout=vllm needs vLLM ({error}): pip install rlhf-lightning[vllm], or {INSTEAD}") from error


def _refuse_unable(model: nn.Module) -> None:
    if is_sharded(model) or (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        raise UserError(f"rollout=vllm works in a run of one process, on one GPU; {INSTEAD}")
    if has_adapters(model) or is_quantized(model):
        raise UserError(
            "rollout=vllm hands whole weights over, and this policy has an adapter or a quantised base "
            f"(model/lora, model/quantization, module.roles=shared); {INSTEAD}"
        )
    if not hasattr(model, "save_pretrained"):
        raise UserError(f"rollout=vllm needs a model of transformers, not {type(model).__name__}; {INSTEAD}")


def _state(model: nn.Module) -> list[Any]:
    """What changes with the weights: exclusive or and sum of each. Counters of changes do not see all optimizers."""
    weights = [weight.detach() for weight in model.parameters()]
    hashes = torch.stack([torch.hash_tensor(weight).view(torch.int64) for weight in weights])
    sums = torch.stack([weight.sum(dtype=torch.float64) for weight in weights])
    return [hashes.tolist(), sums.tolist()]


def _logprobs(one: Any) -> list[float]:
    return [float(step[token].logprob) for token, step in zip(one.token_ids, one.logprobs, strict=True)]


def _check_end(row: int, tokens: list[int], eos_token_id: int, most: int, reason: str | None) -> None:
    """A response ends with EOS, which is part of it, or has the full length."""
    if tokens and (tokens[-1] == eos_token_id or len(tokens) == most):
        return
    raise UserError(
        f"vLLM ended row {row} after {len(tokens)} of {most} tokens without EOS (finish_reason={reason}): its context "
        f"(rollout.engine.options.max_model_len) may be too short, or this version leaves EOS out; {INSTEAD}"
    )
