"""The doctor on tiny models, good and broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import Encoder
from rlhf_lightning.diagnosis import Finding, diagnose
from rlhf_lightning.models import Lora, load_causal_lm

Diagnosis = dict[str, Finding]


@pytest.fixture
def load(causal_lm_folders: dict[str, Path]) -> Callable[..., Any]:
    """A tiny model, with an adapter unless told otherwise."""

    def make(architecture: str = "llama", **options: Any) -> Any:
        return load_causal_lm(name=str(causal_lm_folders[architecture]), **{"lora": Lora(rank=2)} | options)

    return make


@pytest.fixture
def examined(encoder: Encoder) -> Callable[..., Diagnosis]:
    """The findings on a model, by name of the check."""

    def run(model: Any, **options: Any) -> Diagnosis:
        settings: dict[str, Any] = {"encoder": lambda: encoder, "new_tokens": 4} | options
        return {finding.check: finding for finding in diagnose(policy=lambda: model, **settings)}

    return run
