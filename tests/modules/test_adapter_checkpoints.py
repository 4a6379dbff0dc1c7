"""What of a model with an adapter is part of a module's state, and which shards are taken back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from rlhf_lightning.errors import CheckpointError
from rlhf_lightning.models import Lora, load_causal_lm
from rlhf_lightning.modules import SFTModule
from rlhf_lightning.modules.compatibility import check_shards

LORA = Lora(rank=4)
ROWS = Lora(rank=4, trainable_tokens=[5])
Make = Callable[..., SFTModule]


@pytest.fixture
def make(causal_lm_folders: dict[str, Path]) -> Make:
    def build(**options: Any) -> SFTModule:
        module = SFTModule(policy=lambda: load_causal_lm(name=str(causal_lm_folders["gpt2"]), **options))
        module.configure_model()
        return module

    return build


@pytest.mark.parametrize("lora", [LORA, ROWS], ids=["layers", "rows"])
def test_the_state_of_a_module_that_is_frozen_later_is_the_same(make: Make, lora: Lora) -> None:
    module = make(lora=lora)
    before = module.state_dict()
    assert before and all("lora_" in name or "tokens_delta" in name for name in before)
    module.freeze()
    assert module.state_dict().keys() == before.keys()
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({})


def saved(module: SFTModule, folder: Path) -> Path:
    """Shards as Lightning lays them out, of one process."""
    rest: dict[str, Any] = {}
    module.on_save_checkpoint(rest)
    shutil.rmtree(folder, ignore_errors=True)
    dcp.save({"state_dict": module.state_dict()}, checkpoint_id=folder, no_dist=True)
    torch.save(rest, folder / "meta.pt")
    return folder


@pytest.mark.filterwarnings("ignore:torch.distributed is")
@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (LORA, None, "holds an adapter and this run trains none"),
        (None, LORA, "holds no adapter and this run trains one"),
        (LORA, Lora(rank=8), r"lora_A.* has shape \(4, 32\) there and \(8, 32\) here"),
        (LORA, ROWS, r"tokens_delta.* has shape None there and \(1, 32\) here"),
        (ROWS, LORA, r"tokens_delta.* has shape \(1, 32\) there and None here"),
    ],
)
def test_shards_of_another_model_are_refused(
    make: Make, tmp_path: Path, there: Lora | None, here: Lora | None, said: str
) -> None:
    folder = saved(make(lora=there), tmp_path / "shards")
    check_shards(make(lora=there), folder)
    with pytest.raises(CheckpointError, match=said):
        check_shards(make(lora=here), folder)
