"""``rlhf-doctor plan=true``: a run on devices that are not here, from the configuration of its models alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from rlhf_lightning.cli import require_values
from rlhf_lightning.diagnosis import run_of
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules.capabilities import check_capabilities, refusal, strategy_name
from rlhf_lightning.planning import Option, PlannedRun, cheapest, gigabytes, options_of, parse_bytes

OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon", "adamw8bit": "adamw8bit"}
COLUMNS = ("weights", "gradients", "optimizer", "activations", "cache")


def plan_config(config: DictConfig) -> tuple[list[Option], Option]:
    """The options of ``config`` (``conf/doctor.yaml``, composed) and the one that it names. No weights are read.

    Raises:
        UserError: a value that is missing or no number of its kind, a combination that cannot work, batches that the
            devices cannot share.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "data"])  # a plan looks at no data
    require_values(config)
    nodes, devices = (_count(config, key) for key in ("nodes", "devices"))
    if config.device_memory is None:
        raise UserError("plan=true needs device_memory, such as device_memory=80GB")
    memory = parse_bytes(config.device_memory, key="device_memory")
    rates = _rates(config)
    strategy = strategy_name(OmegaConf.to_container(config.strategy, resolve=False))
    policy = instantiate(config.model)
    run = run_of(policy, reward=config.reward, optimizer=instantiate(config.optimizer), **config.run)
    if run is None:
        raise UserError("model._target_ makes a model of unknown size; plan=true knows load_causal_lm")
    processes = nodes * devices
    choice = _choice(policy, run, config.run.roles)
    check_capabilities(strategy=strategy, **choice)
    refused = {name: no.reason for name in ("ddp", "fsdp2") if (no := refusal(strategy=name, **choice))}
    options = options_of(run, processes=processes, device_memory=memory, refused=refused, rates=rates)
    # Lightning's own choice on several devices is DDP, and one device has nothing to share.
    meant = "auto" if processes == 1 else "ddp" if strategy == "auto" else strategy
    return options, next(one for one in options if (one.strategy, one.processes) == (meant, processes))


def print_plan(config: DictConfig) -> bool:
    """Print the plan; whether the strategy that ``config`` names fits."""
    options, chosen = plan_config(config)
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    limit, processes = str(config.device_memory), chosen.processes
    roles = Table("strategy", "devices", "role", *COLUMNS, box=None, title_justify="left")
    roles.title = f"What one device holds in {chosen.memory.stage}, by role"
    for one in options:
        if one.processes not in (1, processes):
            continue
        for role in one.memory.roles:
            cells = [gigabytes(number) if (number := getattr(role, name)) else "" for name in COLUMNS]
            roles.add_row(one.strategy, str(one.processes), role.role, *cells)
    console.print(roles)
    names = ("strategy", "devices", "peak of a device", "in its", f"fits {limit}", "sent in an iteration", "in rollout")
    table = Table(*names, box=None, title_justify="left", title="\nStrategies; what a device sends, and its time")
    if chosen.seconds:
        table.add_column("arithmetic")
        table.add_column("messages")
    for one in options:
        row = [one.strategy, str(one.processes), gigabytes(one.memory.peak), one.memory.largest_phase]
        row += ["refused" if one.refused else "yes" if one.fits else "no"]
        row += [gigabytes(number) if number else "" for number in (one.sent, one.moved.get("rollout", 0.0))]
        table.add_row(*row, *(f"{seconds:,.1f} s" for seconds in one.seconds or ()))
    console.print(table)
    console.print("\n" + _advice(options, chosen, limit, config), highlight=False)
    return chosen.fits


def _advice(options: Sequence[Option], chosen: Option, limit: str, config: DictConfig) -> str:
    processes = chosen.processes
    best = cheapest(options, processes)
    refused = [f"{one.strategy} is not possible: {one.refused}" for one in options if one.refused]
    why = f" ({refused[0]})" if refused else ""
    if best is not None:
        sends = f", which sends {gigabytes(best.sent)} an iteration" if best.sent else ""
        return f"Cheapest that fits {limit} on {processes} device(s): strategy={best.strategy}{sends}{why}"
    more = [one for one in options if one.processes > processes and one.fits and one.refused is None]
    if more:
        return f"Nothing fits {limit} on {processes} device(s){why}; strategy=fsdp2 on {more[0].processes} would"
    possible = [one for one in options if one.processes == processes and one.refused is None]
    nearest = min(possible, key=lambda one: one.memory.peak)
    ways = {
        "a smaller run.rollout_batch_size": nearest.memory.largest_phase == "rollout",
        "a smaller run.micro_batch_size": config.run.micro_batch_size > 1,
        "model.activation_checkpointing=true": not config.model.get("activation_checkpointing"),
        "model.dtype=bfloat16": config.model.get("dtype") == "float32",
        "model/lora=default": not config.model.get("lora"),
        "model/quantization=nf4": not config.model.get("quantization"),
        "run.roles=shared": config.run.stage == "ppo" and config.run.roles != "shared",
    }
    tried = ", ".join(way for way, left in ways.items() if left) or "more nodes or a smaller model"
    return f"Nothing fits {limit} on {processes} device(s){why}; try {tried}"


def _choice(policy: Any, run: PlannedRun, roles: str) -> dict[str, Any]:
    """The answers to the questions of the capability table."""
    quantization = policy.keywords.get("quantization")
    return {
        "lora": bool(policy.keywords.get("lora")),
        "quantization": quantization.kind if quantization else None,
        "roles": roles if run.stage == "ppo" else "separate",
        "optimizer": OPTIMIZERS[run.optimizer],
    }


def _count(config: DictConfig, key: str) -> int:
    number = config[key]
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise UserError(f"{key}={number} must be a whole number of at least 1, such as {key}=8")
    return number


def _rates(config: DictConfig) -> tuple[float, float] | None:
    if (config.flops is None) != (config.bandwidth is None):
        raise UserError("flops and bandwidth are given together, such as flops=200e12 bandwidth=50GB, or neither")
    if config.flops is None:
        return None
    try:
        flops = float(config.flops)
    except (TypeError, ValueError):
        raise UserError(f"flops={config.flops} is no number; write it as flops=200e12") from None
    return flops, parse_bytes(config.bandwidth, key="bandwidth")
