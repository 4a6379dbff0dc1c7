"""``rlhf-evaluate``: who is preferred, and the paper's automatic evaluations, of one or several models."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from rich.console import Console

from rlhf_lightning.arguments import check_arguments
from rlhf_lightning.cli import command_line, reported, require_values, run_script
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation import Judge, ScoreJudge, write_report
from rlhf_lightning.evaluation.benchmarks import write_benchmark_report
from rlhf_lightning.evaluation.loaded import ModelSource, device_of, load_scorer
from rlhf_lightning.models import choose_cpu_matmul
from rlhf_lightning.train import quieten

_PACKAGES = ("rlhf-lightning", "torch", "transformers")


@hydra.main(version_base="1.3", config_path="pkg://rlhf_lightning.conf", config_name="evaluate")
@reported
def _app(config: DictConfig) -> Any:
    require_values(config)
    check_arguments(config)
    quieten()
    choose_cpu_matmul()
    made = {
        "command": command_line("rlhf-evaluate"),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    asked = config.preference.prompts is not None
    given = [name for name in ("reward_model", "judge", "judges", "comparisons") if config.preference[name] is not None]
    if given and not asked:
        raise UserError(f"preference.{given[0]} has no effect without prompts=FILE, the prompts that are answered")
    judge = _judge(config) if asked else None
    # Benchmarks read their files when they are made: what is missing is told before any model is asked.
    benchmarks = instantiate(config.benchmarks, _convert_="all")
    with open_dict(config):
        config.benchmarks = {}  # they are made
    preference = None
    if asked:
        compare = instantiate(config.preference, _partial_=True)
        preference = compare(out=config.out) if judge is None else compare(out=config.out, judge=judge)
        # Benchmarks take hours and may fail: what was judged is kept.
        (Path(config.out) / "preference.json").write_text(json.dumps(preference, indent=1), encoding="utf-8")
    if preference is not None and not benchmarks and config.evaluate.text is None:
        page = write_report(preference | made | {"seed": config.seed}, config.out)
    else:
        report = instantiate(config.evaluate, _partial_=True)(out=config.out, benchmarks=benchmarks) | made
        if preference is not None:
            report["preference"] = preference
        page = write_benchmark_report(report, config.out)
    Console().print(f"Report: {page}", soft_wrap=True)


def _judge(config: DictConfig) -> Judge | None:
    """The reward model as the judge, where the config has none.

    Raises:
        UserError: nor a reward model.
    """
    if config.preference.judge is not None:
        return None
    folder = config.preference.reward_model
    if folder is None:
        raise UserError(
            f"prompts={config.preference.prompts} asks who is preferred: give preference.reward_model=FOLDER, or a "
            "judge, such as preference.judge={_target_: rlhf_lightning.evaluation.ChatJudge, url: ..., model: ...}"
        )
    form = {name: config.evaluate[name] for name in ("dtype", "revision", "attn_implementation", "trust_remote_code")}
    return ScoreJudge(score=load_scorer(ModelSource(str(folder), **form), device_of(config.evaluate.device)))


def main() -> None:
    """Console script."""
    # The names of models are the user's, and Hydra takes keys that a config has not only with a sign.
    sys.argv[1:] = [f"++{argument}" if argument.startswith("models.") else argument for argument in sys.argv[1:]]
    example = "benchmarks=[crows_pairs]"
    run_script(_app, name="rlhf-evaluate", config_name="evaluate", example=example, own_folder="${out}")


if __name__ == "__main__":
    main()
