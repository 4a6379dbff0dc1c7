"""``rlhf-train``: one stage of training."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning as L
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from rlhf_lightning.arguments import check_arguments
from rlhf_lightning.cli import reported, require_values, run_script
from rlhf_lightning.environment import note_environment
from rlhf_lightning.errors import CheckpointError, UserError, one_line
from rlhf_lightning.launching import ending_together, processes_of_one_run, rank
from rlhf_lightning.logs import join_sessions, put_aside
from rlhf_lightning.models import keep_compiled_products, reward_of_first
from rlhf_lightning.modules.capabilities import check_capabilities, strategy_name
from rlhf_lightning.modules.checkpoints import check_file, newest_checkpoint
from rlhf_lightning.modules.compatibility import check_shards
from rlhf_lightning.modules.effects import without_effect
from rlhf_lightning.modules.run_plan import plan_lines
from rlhf_lightning.parent import end_with_parent
from rlhf_lightning.separate_run import METRICS, check_job, has_processes, in_foreign_job, train_separately
from rlhf_lightning.sizes import check_sizes
from rlhf_lightning.suggestions import WHOLE_PIPELINE
from rlhf_lightning.trials import run_trial

log = logging.getLogger(__name__)


def train_stage(config: DictConfig) -> dict[str, float]:
    """Train the stage that ``config`` describes (one of ``conf/stage/``, composed); returns its last metrics.

    Checkpoints, logs, the metrics and the model folder go to ``config.run_dir``.

    Raises:
        UserError: anything that can be known to fail, before training starts.
    """
    require_values(config)
    check_arguments(config)
    quieten()
    if "16" in str(config.trainer.precision):
        keep_compiled_products()
    check_combination(config)
    check_sizes(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]  # its keys are texts
    run_dir = Path(config.run_dir)
    checkpoint = resume_from(config.resume, run_dir)
    if checkpoint is not None and checkpoint.is_dir() and strategy_name(config.trainer.strategy) != "fsdp2":
        raise UserError(
            f"{checkpoint} was written by processes that share the weights: go on with strategy=fsdp2 and any "
            "trainer.devices, 1 included"
        )
    if checkpoint is not None and checkpoint.is_file() and strategy_name(config.trainer.strategy) == "fsdp2":
        # Lightning would number the optimizer's state as the model does its weights, and ours stand in groups.
        raise UserError(
            f"{checkpoint} was written by processes that each hold all weights: go on with strategy=ddp or auto and "
            "any trainer.devices"
        )
    if config.get("dry_run"):
        say_plan(config)
        return {}
    L.seed_everything(config.seed, verbose=False)
    if rank() == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        if checkpoint is None:
            OmegaConf.save(config, run_dir / "config.yaml", resolve=True)
        else:
            put_aside(run_dir / "csv")
        note_environment(run_dir)
    data = instantiate(config.data)
    with reward_of_first(rank(), strategy_name(config.trainer.strategy) == "fsdp2"):
        module = instantiate(config.module)
    callbacks = [instantiate(node) for node in (config.get("callbacks") or {}).values() if node is not None]
    loggers = [instantiate(node) for node in (config.get("logger") or {}).values() if node is not None]
    if not config.trainer.enable_progress_bar:
        callbacks = [c for c in callbacks if not isinstance(c, L.pytorch.callbacks.ProgressBar)]
    if checkpoint is not None:
        callbacks.append(KeepConfig(config))
    if checkpoint is not None and checkpoint.is_dir():
        callbacks.append(ComparedShards(checkpoint))
    trainer = trainer_of(config, callbacks, loggers)
    try:
        with processes_of_one_run(run_dir), ending_together(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    except CheckpointError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    except SystemExit as leaving:
        if trainer.interrupted and leaving.code == 1:  # Lightning's code for Ctrl-C
            raise KeyboardInterrupt from None
        raise
    finally:
        if rank() == 0:
            join_sessions(run_dir / "csv")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if rank() == 0:
        (run_dir / METRICS).write_text(json.dumps(metrics, indent=1))
    return metrics


def say_plan(config: DictConfig) -> None:
    """Log what the run would do and need. The data is prepared, which a run then finds; no weight is read, a reward
    model's included, and nothing is trained."""
    data = instantiate(config.data)
    with reward_of_first(1, True):  # as on a process that is handed its weights
        module = instantiate(config.module)
    trainer = trainer_of(config, [], [])
    data.setup("fit")
    for line in plan_lines(module, data, trainer):
        log.info(line)
    log.info("dry_run=true: nothing was trained; the run would write to %s", config.run_dir)


def trainer_of(config: DictConfig, callbacks: list[L.Callback], loggers: list[Any]) -> L.Trainer:
    """The trainer of a config.

    Raises:
        UserError: what Lightning refuses of it, with the option it is about.
    """
    try:
        trainer: L.Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    except InstantiationException as error:
        cause = error.__cause__
        if not isinstance(cause, MisconfigurationException | ValueError | TypeError) or isinstance(cause, UserError):
            raise
        options: Any = OmegaConf.to_container(config.trainer, resolve=True)
        text = str(cause)
        meant = [
            f"{key}={value}"
            for key, value in options.items()
            if f"`{key}`" in text or (isinstance(value, str) and f"'{value}'" in text)
        ]
        raise UserError(f"trainer.{meant[0] if meant else '*'}: {one_line(cause, most=None)}") from error
    return trainer


class ComparedShards(L.Callback):
    """A sharded checkpoint is compared with the model when that is made and the shards are not read yet."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before Lightning reads the shards."""
        check_shards(pl_module, self.checkpoint)


class KeepConfig(L.Callback):
    """Writes the ``config.yaml`` of a run that goes on from a checkpoint once that is accepted: what a refused run was
    told would else stand beside the checkpoints of another."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything is restored by now."""
        if trainer.is_global_zero:
            OmegaConf.save(self.config, Path(self.config.run_dir) / "config.yaml", resolve=True)


def resume_from(resume: str | None, run_dir: Path) -> Path | None:
    """The checkpoint to start from: ``auto`` is the newest complete one of the run's folder, if there is one."""
    newest = newest_checkpoint(run_dir / "checkpoints")
    if resume == "auto":
        return newest
    if resume is None:
        if newest is not None:
            raise UserError(f"run_dir={run_dir} holds a run already; go on with resume=auto or choose another run_dir")
        return None
    if not Path(resume).exists():
        raise UserError(f"resume={resume}: no such file; give a checkpoint file, auto or null")
    check_file(Path(resume))
    return Path(resume)


def check_combination(config: DictConfig) -> None:
    """Consult the capability table before anything is loaded."""
    node: Any = OmegaConf.to_container(config, resolve=True)
    model, module = node.get("model") or {}, node["module"]
    check_capabilities(
        strategy=strategy_name(node["trainer"].get("strategy") or "auto"),
        lora=bool(model.get("lora")),
        quantization=(model.get("quantization") or {}).get("kind"),
        roles=module.get("roles", "separate"),
        clipping=module.get("max_grad_norm") is not None,
        optimizer=str((node.get("optimizer") or {}).get("_target_", "")).rpartition(".")[2],
    )


def quieten() -> None:
    """Silence Lightning's advice that does not apply: data is small and prepared, batches are ours."""
    for pattern in (
        r".*does not have many workers.*",
        r".*The `LightningModule\.configure_model`.*",
        r".*WeightAveraging callback with a model that overrides the configure_model.*",
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*module\(s\) in eval mode at the start of training.*",
        r".*Total length of `list` across ranks is zero.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`isinstance\(treespec.*",
        r".*Experiment logs directory .* exists.*",
        r".*FSDP2-wrapped module .* returned a view tensor.*",  # which nothing here changes in place
    ):
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def warn_of_idle_options(config: DictConfig) -> None:
    """Name what the command line sets that does nothing in this combination."""
    hydra_config = HydraConfig.get()
    given = [override.partition("=")[0].lstrip("+~") for override in hydra_config.overrides.task]
    for line in without_effect(OmegaConf.to_container(config, resolve=True), given):  # type: ignore[arg-type]
        if rank() == 0:
            log.warning(line)


def check_experiment() -> None:
    """Refuse an experiment that is of one stage beside another that the command line asks for, whose values would be
    taken for those of that stage.

    Raises:
        UserError: names both.
    """
    asked = [override for override in HydraConfig.get().overrides.task if override.startswith("stage=")]
    experiment = HydraConfig.get().runtime.choices.get("experiment")
    if not asked or experiment is None:
        return
    try:
        own = compose("train", [f"experiment={experiment}"], return_hydra_config=True).hydra.runtime.choices.stage
    except HydraException:  # one without a stage of its own
        return
    if asked[0] != f"stage={own}":
        raise UserError(f"experiment={experiment} is of stage={own}; leave out {asked[0]}")


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="train")
@reported
def _app(config: DictConfig) -> Any:
    if "steps" in config:
        raise UserError(WHOLE_PIPELINE)
    check_experiment()
    require_values(config)
    warn_of_idle_options(config)
    if config.get("dry_run"):
        train_stage(config)
        return None
    return run_trial(_train, config)


def _train(config: DictConfig) -> dict[str, float]:
    check_job(config.resume)
    metrics = train_separately(config, "the run") if in_foreign_job() and has_processes(config) else train_stage(config)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
    if rank() == 0:
        log.info("finished: %s", shown)
        log.info("model folder: %s", Path(config.run_dir) / "model")
    return metrics


def main() -> None:
    """Console script."""
    end_with_parent()
    run_script(_app, name="rlhf-train", config_name="train", example="stage=ppo")


if __name__ == "__main__":
    main()
