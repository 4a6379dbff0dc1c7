"""``rlhf-export``: a checkpoint as a folder that transformers or peft loads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from rlhf_lightning.cli import reported, require_values, run_script
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    ScalarModel,
    generation_mode,
    has_adapters,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.modules.checkpoints import read_checkpoint
from rlhf_lightning.train import quieten

log = logging.getLogger(__name__)
ROLES = {"SFTModule": "policy", "RewardModule": "reward_model", "PPOModule": "policy"}


def export_checkpoint(
    *, checkpoint: str | Path, out: str | Path, merge: bool = True, max_shard_size: str = "5GB"
) -> float | None:
    """Write the model that a checkpoint holds; returns the largest difference that merging made to a logit or score.

    The run's own ``config.yaml`` says what to load the weights into; a quantised base is loaded anew unquantised, so
    that the difference is then that of quantisation.

    Args:
        checkpoint: of a run; ``config.yaml`` stands beside its ``checkpoints/``.
        out: the folder to write, which must not exist.
        merge: add an adapter to its base; ``False`` writes the adapter alone, and there is no difference to tell.
        max_shard_size: weights beyond it are written as several files.

    Raises:
        UserError: no checkpoint or no config there, a folder that exists, ``merge=False`` without an adapter, a
            checkpoint of another model.
    """
    path, folder = Path(checkpoint), Path(out)
    recipe = path.parent.parent / "config.yaml"
    if not path.exists():
        raise UserError(f"checkpoint={path}: no such file; give a .ckpt of a run's checkpoints/")
    if not recipe.is_file():
        raise UserError(f"checkpoint={path}: there is no {recipe}, which says what the checkpoint is of")
    if folder.exists():
        raise UserError(f"out={folder} exists already: choose another folder")
    config: Any = OmegaConf.load(recipe)
    module = instantiate(config.module)
    role = ROLES.get(type(module).__name__)
    if role is None:
        raise UserError(f"{recipe} is of a {type(module).__name__}, of which rlhf-export does not know what to export")
    module.configure_model()
    state = read_checkpoint(path)
    module.on_load_checkpoint(state)
    module.load_state_dict(state["state_dict"])
    model = getattr(module, role)
    plain = model.model if isinstance(model, ScalarModel) else model
    if not merge and not has_adapters(plain):
        raise UserError("merge=false writes the adapter alone, and this checkpoint has none: set merge=true")
    encoder = instantiate(config.data.encoder)
    save_model_folder(model, encoder, folder, merge=merge, max_shard_size=max_shard_size)
    trusted = bool(OmegaConf.select(config, "model.trust_remote_code", default=False))
    return _difference(model, folder, trusted) if merge else None


def _difference(model: nn.Module, folder: Path, trusted: bool) -> float:
    """Largest difference between the outputs of the model and of the folder, on a few tokens."""
    scalar = isinstance(model, ScalarModel)
    load: Any = load_scalar_model if scalar else load_causal_lm
    again = load(name=str(folder), trust_remote_code=trusted)

    def outputs(one: Any) -> Tensor:
        own = ids.to(next(one.parameters()).device)
        with generation_mode(one):
            found: Tensor = one(own) if scalar else one(input_ids=own).logits
        return found.float().cpu()

    ids = torch.arange(32).view(2, 16) + 3
    return float((outputs(model) - outputs(again)).abs().max())


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="export")
@reported
def _app(config: DictConfig) -> Any:
    require_values(config)
    quieten()
    difference = export_checkpoint(
        checkpoint=config.checkpoint, out=config.out, merge=config.merge, max_shard_size=config.max_shard_size
    )
    what = "adapter" if difference is None else "model"
    log.info("%s folder: %s", what, config.out)
    if difference is not None:
        log.info("largest difference to the checkpoint's own outputs: %.2g", difference)
    return difference


def main() -> None:
    """Console script."""
    run_script(_app, name="rlhf-export", config_name="export", example="checkpoint=CHECKPOINT")


if __name__ == "__main__":
    main()
