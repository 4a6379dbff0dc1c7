"""The model and the tokenizer under examination, with a few texts that both can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lightning.data import Encoder, PromptBatch, TokenBatch, collate_prompts, collate_tokens
from rlhf_lightning.diagnosis.finding import NothingToCheck
from rlhf_lightning.models import check_vocabulary, computes_exactly, context_length

PROMPTS = ("hi", "say a word", "what is a cat?", "tell me more of it", "why", "name two of them", "go on", "is it so?")
RESPONSES = ("yes", "a cat sat on it.", "no", "it is so, as i said")


class Patient:
    """A policy and its tokenizer, each loaded once, when a check first needs it.

    Args:
        policy: makes the causal language model.
        encoder: makes the encoder.
        device: where the checks run.
        new_tokens: of the responses that are sampled.
    """

    def __init__(
        self,
        *,
        policy: Callable[[], nn.Module],
        encoder: Callable[[], Encoder],
        device: torch.device,
        new_tokens: int = 8,
    ) -> None:
        self._policy, self._encoder = policy, encoder
        self.device = device
        self.new_tokens = new_tokens
        self._made: dict[str, Any] = {}

    @property
    def encoder(self) -> Encoder:
        """The encoder; a check is skipped where it cannot be made."""
        encoder: Encoder = self._once("tokenizer", self._encoder)
        return encoder

    @property
    def model(self) -> Any:
        """The policy on its device; a check is skipped where it cannot be made or does not know the tokenizer's ids."""
        return self._once("model", self._load)

    def load(self) -> None:
        """Load both, with the error that the first of them gives."""
        for what, make in (("tokenizer", lambda: self.encoder), ("model", lambda: self.model)):
            try:
                make()
            except NothingToCheck:
                raise self._made[what] from None

    @property
    def tolerance(self) -> float:
        """Most nats by which two ways to compute a log-probability may differ: rounding, in the type of the weights."""
        return 1e-3 if computes_exactly(self.model) else 1e-1

    def prompts(self) -> PromptBatch:
        """Prompts of different lengths that fit the model's context with a response."""
        texts = [text for text in PROMPTS if len(self.encoder.prompt(text)) + self.new_tokens <= self._context()]
        rows = [{"input_ids": self.encoder.prompt(text), "prompt": text} for text in texts]
        if len(rows) < 2:
            raise NothingToCheck(f"no two prompts fit the model's context of {self._context()} tokens")
        batch = collate_prompts(rows[: len(rows) // 2 * 2], pad_id=self.encoder.pad_token_id)
        return batch._replace(input_ids=batch.input_ids.to(self.device), lengths=batch.lengths.to(self.device))

    def demonstrations(self) -> TokenBatch:
        """Prompts with responses of different lengths, whose labels are the responses and their EOS."""
        rows = []
        for prompt, response in zip(PROMPTS, RESPONSES * 2, strict=True):
            question, answer = self.encoder.example(prompt, response)
            if len(question) + len(answer) <= self._context():
                rows.append({"input_ids": question + answer, "prompt_length": len(question)})
        if len(rows) < 2:
            raise NothingToCheck(f"no two demonstrations fit the model's context of {self._context()} tokens")
        batch = collate_tokens(rows, pad_id=self.encoder.pad_token_id)
        return TokenBatch(*(part.to(self.device) for part in batch))

    def _load(self) -> Any:
        model = self._policy().to(self.device)
        check_vocabulary(model, self.encoder)
        return model

    def _context(self) -> int:
        return context_length(self.model) or 10**9

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        if what not in self._made:
            try:
                self._made[what] = make()
            except Exception as error:  # told by the check that loads it
                self._made[what] = error
        if isinstance(self._made[what], Exception):
            raise NothingToCheck(f"the {what} cannot be used")
        return self._made[what]


def gap(found: Tensor, expected: Tensor) -> float:
    """The largest difference; infinite where one of them is no number."""
    difference = (found.float() - expected.float()).abs()
    return float(difference.max()) if bool(difference.isfinite().all()) else float("inf")
