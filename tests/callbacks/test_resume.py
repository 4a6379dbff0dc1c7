"""A PPO run that is stopped and resumed equals one that never stopped, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch

from rlhf_lightning.callbacks import (
    AdaptiveKLController,
    IterationCheckpoint,
    KLEarlyStop,
    PolicyEMA,
    RolloutMetrics,
    newest_checkpoint,
)
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import PPOModule


class Crashed(Exception):
    pass


class Crash(L.Callback):
    """The process dies at the beginning of an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.iteration:
            raise Crashed


class Stop(L.Callback):
    """Someone asks for an end after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx + 1 == self.iteration


class Run(NamedTuple):
    module: PPOModule
    rows: list[Any]
    prompts: list[str]
    responses: list[str]
    folder: Path


@pytest.fixture
def run(make_ppo: Any, make_data: Any, make_trainer: Any, new_logger: Any, new_recorder: Any, tmp_path: Path) -> Any:
    def start(
        name: str, *more: L.Callback, iterations: int = 6, ckpt_path: Path | None = None, **trainer_settings: Any
    ) -> Run:
        logger, recorder, folder = new_logger(), new_recorder(), tmp_path / name
        module = make_ppo(epochs=2, kl_coef=0.1)
        trainer = make_trainer(
            logger=logger,
            callbacks=[
                IterationCheckpoint(folder=folder, keep_last=10),
                AdaptiveKLController(target=0.01, horizon=40),
                PolicyEMA(decay=0.9),
                RolloutMetrics(),
                KLEarlyStop(max_kl=1e6),
                recorder,
                *more,
            ],
            val_check_interval=2,
            num_sanity_val_steps=1,
            **trainer_settings,
        )
        # Whatever the process did before must not matter to a resumed run.
        torch.manual_seed(17 if ckpt_path is None else 99)
        with contextlib.suppress(Crashed):
            trainer.fit(
                module,
                make_data(iterations=iterations, text=True, validation=True),
                ckpt_path=ckpt_path,
                weights_only=True,
            )
        rollouts = [output["rollout"] for output in recorder.outputs]
        return Run(
            module,
            logger.rows,
            [prompt for rollout in rollouts for prompt in rollout.prompts],
            [response for rollout in rollouts for response in rollout.responses],
            folder,
        )

    return start


def assert_same(left: Any, right: Any, place: str = "") -> None:
    """Equality of nested values with every bit of every tensor."""
    assert type(left) is type(right), place
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), place
    elif isinstance(left, Mapping):
        assert left.keys() == right.keys(), place
        for key in left:
            assert_same(left[key], right[key], f"{place}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), place
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{place}/{index}")
    else:
        assert left == right or (left != left and right != right), place


@pytest.fixture(scope="module")
def cache() -> dict[str, Run]:
    """The uninterrupted run, made once."""
    return {}


def rows_with(name: str, rows: list[Any]) -> list[Any]:
    return [row for row in rows if name in row[1]]


@pytest.mark.parametrize("way", ["crash", "should_stop", "max_steps", "limit_train_batches", "iterations"])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(run: Any, cache: dict[str, Run], way: str) -> None:
    straight = cache.get("straight") or cache.setdefault("straight", run("straight"))
    if way == "crash":
        first = run("stopped", Crash(iteration=4))
    elif way == "should_stop":
        first = run("stopped", Stop(iteration=3))
    elif way == "max_steps":
        first = run("stopped", max_steps=3 * 4)  # 2 epochs of 2 minibatches make 4 optimizer steps an iteration
    elif way == "limit_train_batches":
        first = run("stopped", limit_train_batches=3)
    else:
        first = run("stopped", iterations=3)  # a run that came to its end, and is given a later one
    checkpoint = newest_checkpoint(first.folder)
    assert checkpoint is not None
    assert checkpoint.name == "iteration-000003.ckpt"
    second = run("stopped", ckpt_path=checkpoint)

    assert len(first.prompts) == len(second.prompts) == 3 * 8
    assert first.prompts + second.prompts == straight.prompts
    assert first.responses + second.responses == straight.responses
    assert straight.module.iterations == second.module.iterations == 6
    assert straight.module.kl_coef == second.module.kl_coef != 0.1
    # At the end of a fit the policy is the average: equal here means an equal average, too.
    assert_same(straight.module.state_dict(), second.module.state_dict())

    files = [torch.load(r.folder / "iteration-000006.ckpt", weights_only=True) for r in (straight, second)]
    assert files[0]["optimizer_states"][0]["state"]
    assert files[0]["policy_ema"]["averaging_state"]["n_averaged"] == 7
    if way not in ("limit_train_batches", "iterations"):  # those have validated at an end that was none
        assert_same(files[0]["loops"], files[1]["loops"])
    assert_same(*({key: value for key, value in file.items() if key != "loops"} for file in files))

    training = rows_with("rollout/score", straight.rows)
    assert [step for step, _ in training] == [0, 1, 2, 3, 4, 5]
    assert_same(rows_with("rollout/score", first.rows) + rows_with("rollout/score", second.rows), training)
    validation = rows_with("val/score", straight.rows)
    assert [step for step, _ in validation] == [1, 3, 5]
    assert_same(rows_with("val/score", first.rows)[:1] + rows_with("val/score", second.rows), validation)


def test_resuming_past_the_end_of_a_run_is_an_error(run: Any) -> None:
    first = run("first", limit_train_batches=3)
    with pytest.raises(UserError, match=r"^the checkpoint is of iteration 3 and the run has data.iterations=2; "):
        run("again", iterations=2, ckpt_path=newest_checkpoint(first.folder))


def test_resuming_a_finished_run_trains_nothing_and_ends_alike(run: Any, cache: dict[str, Run]) -> None:
    straight = cache.get("straight") or cache.setdefault("straight", run("straight"))
    again = run("again", ckpt_path=straight.folder / "iteration-000006.ckpt")
    assert again.prompts == []
    assert_same(straight.module.state_dict(), again.module.state_dict())
