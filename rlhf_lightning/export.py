"""``rlhf-export``: a checkpoint as a folder that transformers or peft loads."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.cli import reported, require_values, run_script
from rlhf_lightning.errors import CheckpointError, UserError
from rlhf_lightning.logs import last_metrics
from rlhf_lightning.models import Exported, RunRecord, ScalarModel, export_model, has_adapters
from rlhf_lightning.modules import run_record
from rlhf_lightning.modules.checkpoints import read_checkpoint
from rlhf_lightning.train import quieten

log = logging.getLogger(__name__)
CARD = "data.json"
ROLES = {"SFTModule": "policy", "RewardModule": "reward_model", "PPOModule": "policy"}


def export_checkpoint(
    *, checkpoint: str | Path, out: str | Path, merge: bool = True, max_shard_size: str = "5GB"
) -> Exported:
    """Write the model that a checkpoint holds, with a model card.

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
    state = read_checkpoint(path)
    config: Any = OmegaConf.load(recipe)
    module = instantiate(config.module)
    role = ROLES.get(type(module).__name__)
    if role is None:
        raise UserError(f"{recipe} is of a {type(module).__name__}, of which rlhf-export does not know what to export")
    module.configure_model()
    if "ppo" in state:
        state["ppo"]["reward"] = None  # which is not exported, and may have been trained anew since
    try:
        module.on_load_checkpoint(state)
    except CheckpointError as error:
        raise UserError(f"{path}: {error}") from error
    module.load_state_dict(state["state_dict"])
    model = getattr(module, role)
    plain = model.model if isinstance(model, ScalarModel) else model
    if not merge and not has_adapters(plain):
        raise UserError("merge=false writes the adapter alone, and this checkpoint has none: set merge=true")
    encoder = instantiate(config.data.encoder)
    record = _record(path, config, module, state)
    return export_model(model, encoder, folder, merge=merge, max_shard_size=max_shard_size, record=record)


def _record(path: Path, config: Any, module: Any, state: dict[str, Any]) -> RunRecord:
    """What the run's folder tells: its data card, and its metrics up to the checkpoint."""
    run = path.parent.parent
    card = run / CARD
    progress: dict[str, object] = {"optimizer steps": state["global_step"]}
    if "ppo" in state:
        progress = {"iterations": state["ppo"]["iterations"]} | progress
    found = run_record(
        module,
        data=instantiate(config.data),
        card=json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {},
        progress=progress,
        metrics=last_metrics(run / "csv", before=state["global_step"]),
    )
    if "policy_ema" in state:
        note = "Its weights are those in training at that checkpoint, not the average that the run kept of them."
        found = dataclasses.replace(found, notes=[*found.notes, note])
    return found


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="export")
@reported
def _app(config: DictConfig) -> Any:
    require_values(config)
    quieten()
    done = export_checkpoint(
        checkpoint=config.checkpoint, out=config.out, merge=config.merge, max_shard_size=config.max_shard_size
    )
    log.info("%s folder: %s", "model" if config.merge else "adapter", done.folder)
    if done.comparison:
        log.info(done.comparison)
    return done.difference


def main() -> None:
    """Console script."""
    run_script(_app, name="rlhf-export", config_name="export", example="checkpoint=CHECKPOINT")


if __name__ == "__main__":
    main()
