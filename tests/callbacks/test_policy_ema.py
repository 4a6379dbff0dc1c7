from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from rlhf_lightning.callbacks import IterationCheckpoint, PolicyEMA
from rlhf_lightning.errors import UserError


def batches(number: int) -> DataLoader[Any]:
    return DataLoader(torch.zeros(number, 1))  # type: ignore[arg-type]  # a tensor serves as a dataset


class Constant(L.LightningModule):
    """Weights that follow a script: iteration i sets them to ``values[i]`` in as many optimizer steps as wanted."""

    def __init__(self, values: list[float], *, steps: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.values = values
        self.steps = steps
        self.policy = nn.Linear(1, 1, bias=False)
        self.policy.register_buffer("constant", torch.tensor([0.1, 0.3]))
        nn.init.constant_(self.policy.weight, 8.0)
        self.value = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.value.weight, 5.0)
        self.seen_in_validation: list[float] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for _ in range(self.steps):
            self.optimizers().step()  # type: ignore[union-attr]  # one optimizer, where Lightning allows lists
        with torch.no_grad():
            self.policy.weight.fill_(self.values[batch_idx])
            self.policy.constant[1] = self.values[batch_idx]  # type: ignore[index,operator]  # a buffer

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen_in_validation.append(self.policy.weight.item())


class Weights(L.Callback):
    """The policy's weight at the end of each iteration and of training."""

    def __init__(self) -> None:
        self.trained: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trained.append(pl_module.policy.weight.item())


@pytest.mark.parametrize("steps", [1, 3])
def test_average_is_taken_once_an_iteration_from_the_initial_weights(make_trainer: Any, steps: int) -> None:
    module = Constant([4.0, 0.0, 2.0], steps=steps)
    make_trainer(callbacks=[PolicyEMA(decay=0.75)]).fit(module, batches(3))
    # 0.75*8 + 0.25*4 = 7; 0.75*7 + 0.25*0 = 5.25; 0.75*5.25 + 0.25*2 = 4.4375
    assert module.policy.weight.item() == 4.4375
    assert module.value.weight.item() == 5.0
    assert torch.equal(module.policy.constant, torch.tensor([0.1, 2.0]))  # type: ignore[arg-type]  # a buffer


def test_default_decay_is_the_papers() -> None:
    assert PolicyEMA().decay == 0.992


def test_validation_sees_the_average_and_training_its_own_weights(make_trainer: Any) -> None:
    module, weights = Constant([4.0, 0.0, 2.0]), Weights()
    trainer = make_trainer(callbacks=[PolicyEMA(decay=0.75), weights], val_check_interval=1, num_sanity_val_steps=1)
    trainer.fit(module, batches(3), batches(1))
    assert module.seen_in_validation == [8.0, 7.0, 5.25, 4.4375]
    assert weights.trained == [4.0, 0.0, 2.0]


def test_failed_validation_leaves_the_trained_weights(make_trainer: Any) -> None:
    class Fails(Constant):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert self.policy.weight.item() == 7.0
            raise RuntimeError("no judge")

    module = Fails([4.0])
    trainer = make_trainer(callbacks=[PolicyEMA(decay=0.75)], num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="no judge"):
        trainer.fit(module, batches(1), batches(1))
    assert module.policy.weight.item() == 4.0


def test_checkpoint_holds_trained_weights_and_the_average_of_the_policy_alone(make_trainer: Any, tmp_path: Any) -> None:
    checkpoints = IterationCheckpoint(folder=tmp_path / "c")
    make_trainer(callbacks=[PolicyEMA(decay=0.75), checkpoints]).fit(Constant([4.0, 0.0]), batches(2))
    saved = torch.load(tmp_path / "c" / "iteration-000002.ckpt", weights_only=True)
    assert {name: tensor.tolist() for name, tensor in saved["state_dict"].items()} == {
        "policy.weight": [[0.0]],
        "policy.constant": pytest.approx([0.1, 0.0]),
        "value.weight": [[5.0]],
    }
    assert saved["policy_ema"]["state_dict"].keys() == {"policy.weight", "policy.constant"}
    assert saved["policy_ema"]["state_dict"]["policy.weight"].item() == 5.25
    assert "current_model_state" not in saved


def test_checkpoint_without_an_average_begins_it_with_its_weights(make_trainer: Any, tmp_path: Any) -> None:
    folder = tmp_path / "c"
    first = make_trainer(callbacks=[IterationCheckpoint(folder=folder)], max_steps=1)
    first.fit(Constant([4.0, 0.0]), batches(2))
    module = Constant([4.0, 0.0])
    with pytest.warns(UserWarning, match="was not created with WeightAveraging"):
        make_trainer(callbacks=[PolicyEMA(decay=0.75)]).fit(
            module, batches(2), ckpt_path=folder / "iteration-000001.ckpt", weights_only=True
        )
    assert module.policy.weight.item() == 0.75 * 4.0


def test_callback_can_be_used_for_a_second_run(make_trainer: Any) -> None:
    average, second = PolicyEMA(decay=0.75), Constant([4.0])
    make_trainer(callbacks=[average]).fit(Constant([4.0, 0.0, 2.0], steps=3), batches(3))
    make_trainer(callbacks=[average]).fit(second, batches(1))
    assert second.policy.weight.item() == 7.0


def test_average_of_a_real_policy(make_ppo: Any, make_data: Any, make_trainer: Any) -> None:
    trained: list[dict[str, torch.Tensor]] = []

    class Copies(L.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            trained.append(copy.deepcopy(pl_module.policy.state_dict()))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trained.append(copy.deepcopy(pl_module.policy.state_dict()))

    module = make_ppo()
    make_trainer(callbacks=[PolicyEMA(decay=0.9), Copies()]).fit(module, make_data())
    assert len(trained) == 4
    for name, found in module.policy.state_dict().items():
        expected = trained[0][name]
        for step in trained[1:]:
            expected = 0.9 * expected + 0.1 * step[name]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        assert not torch.equal(found, trained[-1][name])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_outside_its_range_is_an_error(decay: float) -> None:
    with pytest.raises(UserError, match=r"callbacks.policy_ema.decay=.* must lie in \[0, 1\)"):
        PolicyEMA(decay=decay)


def test_module_without_a_policy_is_an_error(make_trainer: Any) -> None:
    module = Constant([4.0])
    del module.policy
    with pytest.raises(UserError, match="PolicyEMA averages a policy and Constant has none"):
        make_trainer(callbacks=[PolicyEMA()]).fit(module, batches(1))
