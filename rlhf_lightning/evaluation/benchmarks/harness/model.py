"""A model as lm-evaluation-harness asks it; imports the harness, so it is itself imported where one is needed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks.store import Store, key_of
from rlhf_lightning.evaluation.loaded import LoadedModel
from rlhf_lightning.evaluation.sampling import with_progress

_AT_ONCE = 8
"""Batches between two writes to the store."""


class KeptModel(LM):  # type: ignore[misc]  # the harness ships no types
    """The harness's own Hugging Face model, whose answers are kept and not made again.

    Args:
        loaded: model and tokenizer; text begins with a BOS if the tokenizer adds one.
        prefix: few-shot examples before every prompt; not before text whose whole loss is measured.
        store: folder of answers.
        depends: what they depend on beside the requests.
        label: what the progress bar says.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        prefix: str,
        store: str | Path,
        batch_size: int,
        seed: int,
        depends: dict[str, Any],
        label: str,
    ) -> None:
        super().__init__()
        starts = bool(loaded.encoder.document("", eos=False))
        tokenizer = copy.deepcopy(loaded.encoder.tokenizer)  # the harness may set its padding
        self.lm: Any = HFLM(
            pretrained=loaded.model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=starts or None
        )
        self.prefix, self.folder, self.batch_size, self.seed = prefix, Path(store), batch_size, seed
        self.depends, self.label = depends, label
        self.keys: list[str] = []
        self.cut = 0

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """(log-probability in nats, whether it is the greedy one) of each (context, continuation)."""
        found = self._kept("loglikelihood", [self._prefixed(request) for request in requests], sampled=False)
        return [(float(logprob), bool(greedy)) for logprob, greedy in found]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        """Log-probability of each whole text, in nats."""
        return self._kept("loglikelihood_rolling", list(requests), sampled=False)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """The continuation of each (context, settings), up to the task's own end."""
        for request in requests:
            longest = int(request.args[1].get("max_gen_toks", self.lm.max_gen_toks))
            if longest >= self.lm.max_length:
                raise UserError(
                    f"{self.label}: answers of {longest} tokens leave no room for a prompt in the model's context of "
                    f"{self.lm.max_length}: leave the benchmark out"
                )
        sampled = any(request.args[1].get("do_sample") for request in requests)
        return self._kept("generate_until", [self._prefixed(request) for request in requests], sampled=sampled)

    def _prefixed(self, request: Any) -> Any:
        changed = copy.copy(request)
        changed.arguments = (self.prefix + request.args[0], *request.args[1:])
        return changed

    def _kept(self, kind: str, requests: list[Any], *, sampled: bool) -> list[Any]:
        texts = [json.dumps(request.args, sort_keys=True, default=str) for request in requests]
        key = key_of(
            **self.depends,
            kind=kind,
            requests=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
            drawn=[self.seed, self.batch_size] if sampled else None,
        )
        self.keys.append(key)
        self.cut += sum(self._too_long(kind, request) for request in requests)
        store = Store(self.folder, key)
        # Neighbours in length; cut the same way in every call, because what is drawn depends on the batch.
        order = sorted(range(len(requests)), key=lambda row: -len(texts[row]))
        size = _AT_ONCE * self.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        left = [(number, batch) for number, batch in enumerate(batches) if any(row not in store.known for row in batch)]
        for number, batch in with_progress(left, self.label):
            with torch.random.fork_rng():
                torch.manual_seed(int.from_bytes(hashlib.sha256(f"{self.seed} {key} {number}".encode()).digest()[:7]))
                found = getattr(self.lm, kind)([requests[row] for row in batch], disable_tqdm=True)
            store.add(dict(zip(batch, found, strict=True)))
        return [store.known[row] for row in range(len(requests))]

    def _too_long(self, kind: str, request: Any) -> bool:
        """Whether the harness leaves the beginning of the prompt out."""
        if kind == "loglikelihood_rolling":
            return False  # read in windows
        if kind == "generate_until":
            text, room = request.args[0], int(request.args[1].get("max_gen_toks", self.lm.max_gen_toks))
        else:
            text, room = "".join(request.args), -1  # the last token is not read
        return bool(len(self.lm.tok_encode(text)) + room > self.lm.max_length)
