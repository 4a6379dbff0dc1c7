"""Mistakes in a config: the message names the wrong key or value and the nearest right one, before weights load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning import collect, doctor, export, pipeline, train

SCRIPTS = {"train": train, "pipeline": pipeline, "collect": collect, "doctor": doctor, "export": export}
# Script and arguments; {folder} holds the files, {run} is where the run would go. Then what the message must contain.
TYPOS: dict[str, tuple[str, list[str]]] = {
    "top level": ("train sft sed=1", ["sed", "did you mean seed?"]),
    "module": ("train ppo module.kl_cof=1", ["module.kl_cof", "did you mean module.kl_coef?"]),
    "data": ("train sft data.batchsize=4", ["data.batchsize", "did you mean data.batch_size?"]),
    "model": ("train sft model.dtyp=bf16", ["model.dtyp", "did you mean model.dtype?"]),
    "trainer": ("train sft trainer.max_epoch=3", ["trainer.max_epoch", "did you mean trainer.max_epochs?"]),
    "optimizer": ("train sft optimizer.beta=[0.9,0.99]", ["optimizer.beta", "did you mean optimizer.betas?"]),
    "encoder": ("train sft encoder.revison=v2", ["encoder.revison", "did you mean encoder.revision?"]),
    "second level": ("train ppo module.reward.nam=x", ["module.reward.nam", "did you mean module.reward.name?"]),
    "hygiene": ("train ppo data.hygiene.max_per_usr=9", ["max_per_usr", "did you mean data.hygiene.max_per_user?"]),
    "adapter": ("train sft model/lora=default model.lora.rnk=4", ["model.lora.rnk", "did you mean model.lora.rank?"]),
    "engine": (
        "train ppo rollout.engine.compil=true",
        ["rollout.engine.compil", "did you mean rollout.engine.compile?"],
    ),
    "another engine's option": ("train ppo rollout=continuous rollout.engine.compile=true", ["rollout.engine.compile"]),
    "callback": (
        "train sft callbacks.checkpoint.evry=5",
        ["callbacks.checkpoint.evry", "did you mean callbacks.checkpoint.every?"],
    ),
    "logger": ("train sft logger.csv.save_dr=x", ["logger.csv.save_dr", "did you mean logger.csv.save_dir?"]),
    "added on purpose": ("train ppo +module.kl_cof=1", ["module.kl_cof", "did you mean module.kl_coef?"]),
    "added to the trainer": (
        "train sft +trainer.max_epoch=1",
        ["trainer.max_epoch", "did you mean trainer.max_epochs?"],
    ),
    "two typos": ("train ppo module.kl_cof=1 module.clp=2", ["module.kl_cof", "did you mean module.kl_coef?"]),
    "step of a pipeline": (
        "pipeline experiment=quickstart steps.ppo.module.kl_cof=1",
        ["steps.ppo.module.kl_cof", "did you mean steps.ppo.module.kl_coef?"],
    ),
    "name of a step": ("pipeline experiment=quickstart steps.pppo.seed=1", ["steps.pppo", "did you mean steps.ppo"]),
    "skipped step": ("pipeline experiment=quickstart skip=[ppoo]", ["ppoo", "did you mean ppo?"]),
    "ordered step": ("pipeline experiment=quickstart order=[prepare,sfft]", ["sfft", "did you mean sft?"]),
    "collect": (
        "collect labeler=vader model.name=m prompts=p out=o collect.max_new_token=4",
        ["collect.max_new_token", "did you mean collect.max_new_tokens?"],
    ),
    "doctor": ("doctor model.name=m run.new_token=4", ["run.new_token", "did you mean run.new_tokens?"]),
    "export": ("export checkpoint=c outt=o", ["outt", "did you mean out?"]),
    "group": ("train stge=sft", ["stge", "did you mean stage?", "ppo pretrain reward sft"]),
    "group of a group": ("train sft model/lra=default", ["model/lra", "did you mean model/lora?"]),
}
OPTIONS: dict[str, tuple[str, list[str]]] = {
    "stage": ("train stage=pro", ["stage/pro", "did you mean stage=ppo?"]),
    "stage of an experiment": ("train experiment=instructgpt/1.3b_stf", ["1.3b_stf", "instructgpt/1.3b_sft?"]),
    "model": ("train sft model=smolm2_135m", ["model/smolm2_135m", "did you mean model=smollm2_135m?"]),
    "optimizer": ("train sft optimizer=adamv", ["optimizer/adamv", "did you mean optimizer=adamw?"]),
    "adapter": ("train sft model/lora=defualt", ["model/lora/defualt", "did you mean model/lora=default?"]),
    "callback": ("train ppo callbacks=[ppo,policy_emma]", ["policy_emma", "did you mean callbacks=policy_ema?"]),
    "logger": ("train sft logger=[csv,tensorbord]", ["tensorbord", "did you mean logger=tensorboard?"]),
    "strategy": ("train sft strategy=fdsp2", ["strategy/fdsp2", "did you mean strategy=fsdp2?"]),
    "data": ("train reward data=hh_rlfh", ["data/hh_rlfh", "did you mean data=hh_rlhf?"]),
    "rollout": ("train ppo rollout=natve", ["rollout/natve", "did you mean rollout=native?"]),
    "experiment of a pipeline": ("pipeline experiment=quickstrt", ["quickstrt", "did you mean experiment=quickstart?"]),
    "labeler": ("collect labeler=vadr", ["labeler/vadr", "did you mean labeler=vader?"]),
}
KINDS: dict[str, tuple[str, list[str]]] = {
    "no number": ("train ppo module.kl_coef=abc", ["module.kl_coef=abc", "a number"]),
    "no whole number": ("train ppo module.epochs=1.5", ["module.epochs=1.5", "a whole number"]),
    "number for a truth value": ("train reward module.center=2", ["module.center=2", "true or false"]),
    "text for a truth value": (
        "train ppo module.whiten_advantages=yes_please",
        ["whiten_advantages=yes_please", "true"],
    ),
    "batch": ("train sft data.batch_size=many", ["data.batch_size=many", "a whole number"]),
    "seed": ("train sft seed=abc", ["seed=abc", "a whole number"]),
    "epochs": ("train sft trainer.max_epochs=three", ["trainer.max_epochs=three", "a whole number"]),
    "rank": ("train sft model/lora=default model.lora.rank=big", ["model.lora.rank=big", "a whole number"]),
    "null": ("train ppo module.clip=null", ["module.clip=null", "a number"]),
    "list": ("train ppo module.gamma=[1,2]", ["module.gamma=[1, 2]", "a number"]),
    "callback": ("train sft callbacks.checkpoint.every=often", ["callbacks.checkpoint.every=often", "a whole number"]),
    "precision": ("train sft trainer.precision=bf16-mixd", ["trainer.precision=bf16-mixd", "did you mean bf16-mixed?"]),
    "accelerator": ("train sft trainer.accelerator=cpuu", ["trainer.accelerator=cpuu", "cpu"]),
    "devices": ("train sft trainer.devices=two", ["trainer.devices=two"]),
    "choice": ("train ppo module.missing_eos=subtrac", ["module.missing_eos=subtrac", "did you mean subtract?"]),
    "estimator": ("train ppo module.kl_estimator=k4", ["module.kl_estimator=k4", "k1, k2, k3"]),
    "schedule": ("train sft module.schedule=cosin", ["module.schedule=cosin", "did you mean cosine?"]),
    "roles": ("train ppo module.roles=shard", ["module.roles=shard", "did you mean shared?"]),
    "dtype": ("train sft model.dtype=float23", ["float23", "float32"]),
    "overlong": ("train sft data.overlong=dorp", ["dorp", "drop"]),
    "bad rows": ("train sft data.on_bad_row=skp", ["skp", "skip"]),
    "step": (
        "pipeline experiment=quickstart steps.ppo.module.kl_coef=abc",
        ["steps.ppo.module.kl_coef=abc", "a number"],
    ),
}
SIZES: dict[str, tuple[str, list[str]]] = {
    "batch of none": ("train sft data.batch_size=0", ["data.batch_size=0", "at least 1"]),
    "minibatch": ("train ppo module.minibatch_size=3", ["module.minibatch_size=3", "data.rollout_batch_size=4"]),
    "micro-batch": (
        "train ppo module.minibatch_size=4 module.micro_batch_size=3",
        ["module.micro_batch_size=3", "module.minibatch_size=4"],
    ),
    "micro-batch of none": ("train sft module.micro_batch_size=0", ["module.micro_batch_size=0", "at least 1"]),
    "rank": ("train sft model/lora=default model.lora.rank=0", ["model.lora.rank=0", "at least 1"]),
    "no iteration": ("train ppo data.iterations=0", ["data.iterations=0", "at least 1"]),
    "no rollout": ("train ppo data.rollout_batch_size=0", ["data.rollout_batch_size=0", "at least 1"]),
    "no text": ("train ppo data.text={folder}/text.jsonl data.ptx_ratio=0", ["data.ptx_ratio=0", "at least 1"]),
    "temperature": ("train ppo module.temperature=0", ["module.temperature=0", "positive"]),
    "discount": ("train ppo module.gamma=1.5", ["module.gamma=1.5", "between 0 and 1"]),
    "learning rate": ("train sft module.learning_rate=-1", ["module.learning_rate=-1", "at least 0"]),
    "dropout": ("train sft model.dropout=1.5", ["model.dropout=1.5", "below 1"]),
    "share": (
        "train sft data.text={folder}/text.jsonl data.text_share=1.5",
        ["data.text_share=1.5", "between 0 and 1"],
    ),
    "clip": ("train ppo module.clip=0", ["module.clip=0", "positive"]),
    "pack": ("train sft data.packing=1", ["data.packing=1", "at least 2"]),
}
MISSING: dict[str, tuple[str, list[str]]] = {
    "stage": ("train", ["stage is needed", "ppo pretrain reward sft"]),
    "experiment": ("pipeline", ["experiment is needed", "quickstart"]),
    "labeler": ("collect model.name=m", ["labeler is needed", "vader"]),
    "model": ("train stage=sft data.train=d", ["model.name is needed", "model.name=..."]),
    "data": ("train stage=sft model.name=m", ["data.train is needed", "data.train=..."]),
    "text of a preset": (
        "train experiment=instructgpt/1.3b_rlhf_init model.name=m data.train=d",
        ["data.text is needed", "data.text=..."],
    ),
    "a pipeline's experiment": ("train experiment=quickstart", ["experiment=quickstart", "rlhf-pipeline"]),
    "a pipeline's experiment beside a stage": ("train stage=sft experiment=quickstart", ["rlhf-pipeline"]),
    "a stage's experiment": ("pipeline experiment=instructgpt/1.3b_sft", ["rlhf-train"]),
    "an experiment of another stage": (
        "train ppo experiment=instructgpt/1.3b_sft",
        ["stage=ppo", "experiment=instructgpt/1.3b_sft", "stage=sft"],
    ),
    "a bracket": ("train sft data.columns={{prompt:ask", ["data.columns={prompt:ask"]),
    "an equals sign": ("train sft module.learning_rate", ["module.learning_rate", "="]),
    "dashes": ("train --stage=sft", ["--stage=sft", "stage=sft"]),
    "a folder named by a value": ("train sft run_dir=runs/${{sed}}", ["sed"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files, enough for every stage to begin."""
    found = tmp_path_factory.mktemp("mistakes")
    rows = {
        "demonstrations": {"prompt": "say hi", "response": "hi"},
        "comparisons": {"prompt": "say a", "chosen": "a", "rejected": "b"},
        "prompts": {"prompt": "say hi"},
        "text": {"text": "a bee is not a cat. " * 20},
    }
    for name, row in rows.items():
        (found / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 4)
    return found


@pytest.fixture
def reason(
    folder: Path,
    causal_lm_folders: dict[str, Path],
    reward_model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[..., str],
) -> Callable[[str], str]:
    """The one line that a command ends with, which must fail before a weight is loaded."""
    ppo = f"module.reward.name={reward_model_folders['gpt2']} data.train={folder}/prompts.jsonl data.iterations=2"
    sizes = "data.rollout_batch_size=4 module.minibatch_size=2 module.max_new_tokens=4"
    stages = {
        "sft": f"data.train={folder}/demonstrations.jsonl",
        "reward": f"data.train={folder}/comparisons.jsonl",
        "ppo": f"{ppo} {sizes}",
    }

    def run(command: str) -> str:
        script, *arguments = command.format(folder=folder).split()
        if arguments and arguments[0] in stages:
            stage = arguments.pop(0)
            # What the mistake is about stands behind, and wins.
            given = stages[stage].split()
            names = {argument.partition("=")[0] for argument in arguments}
            base = [f"model.name={causal_lm_folders['gpt2']}"] if "model" not in names else []
            own = [f"run_dir={tmp_path}/run"] if "run_dir" not in names else []
            given = [value for value in (*base, *own, *given) if value.partition("=")[0] not in names]
            arguments = [f"stage={stage}", *given, *arguments]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("rlhf_lightning.models.loading._load", _no_weights)
        return fails(SCRIPTS[script].main, *arguments)

    return run


def _no_weights(*_: object, **__: object) -> None:
    raise AssertionError("weights are loaded before the mistake is seen")


@pytest.mark.parametrize("name", TYPOS)
def test_a_key_that_is_not_there(name: str, reason: Callable[[str], str]) -> None:
    command, wanted = TYPOS[name]
    _holds(reason(command), wanted)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_not_there(name: str, reason: Callable[[str], str]) -> None:
    command, wanted = OPTIONS[name]
    _holds(reason(command), wanted)


@pytest.mark.parametrize("name", KINDS)
def test_a_value_of_the_wrong_kind(name: str, reason: Callable[[str], str]) -> None:
    command, wanted = KINDS[name]
    _holds(reason(command), wanted)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_cannot_be(name: str, reason: Callable[[str], str]) -> None:
    command, wanted = SIZES[name]
    _holds(reason(command), wanted)


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_or_of_another_command(name: str, reason: Callable[[str], str]) -> None:
    command, wanted = MISSING[name]
    _holds(reason(command), wanted)


def _holds(line: str, wanted: list[str]) -> None:
    for part in wanted:
        assert part in line, line
