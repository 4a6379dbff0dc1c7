from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_lightning.callbacks import HuggingFaceExport, KLEarlyStop, PolicyEMA
from rlhf_lightning.data import ComparisonDataModule
from rlhf_lightning.errors import UserError
from rlhf_lightning.modules import RewardModule


def test_policy_folder_holds_the_average_and_loads_by_itself(
    make_ppo: Any, make_data: Any, make_trainer: Any, encoder: Any, tmp_path: Path
) -> None:
    module = make_ppo()
    initial = make_ppo()
    initial.configure_model()
    callbacks = [HuggingFaceExport(folder=tmp_path / "policy"), PolicyEMA(decay=0.5)]
    make_trainer(callbacks=callbacks).fit(module, make_data())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, module.policy(ids).logits)
        assert not torch.allclose(loaded(ids).logits, initial.policy(ids).logits, atol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert tokenizer("a cat").input_ids == encoder.tokenizer("a cat").input_ids
    assert not list(tmp_path.glob(".policy*"))


def test_reward_model_folder_is_centred_and_loads_by_itself(
    make_scalar_model: Any, make_trainer: Any, encoder: Any, tmp_path: Path
) -> None:
    comparisons, demonstrations = tmp_path / "comparisons.jsonl", tmp_path / "demonstrations.jsonl"
    comparisons.write_text('{"prompt": "a cat", "chosen": "yes.", "rejected": "no!"}\n' * 4)
    demonstrations.write_text('{"prompt": "a cat", "response": "yes."}\n{"prompt": "a dog", "response": "it is."}\n')
    data = ComparisonDataModule(
        encoder=encoder, train=str(comparisons), demonstrations=str(demonstrations), batch_size=2
    )
    module = RewardModule(reward_model=make_scalar_model, learning_rate=1e-3)
    make_trainer(callbacks=[HuggingFaceExport(folder=tmp_path / "rm", role="reward_model")]).fit(module, data)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert loaded.config.num_labels == 1
    scores = []
    for prompt, response in (("a cat", "yes."), ("a dog", "it is.")):
        ids = torch.tensor([encoder.prompt(prompt) + encoder.response(response)])
        with torch.no_grad():
            scores.append(loaded(ids).logits.item())
    assert sum(scores) == pytest.approx(0.0, abs=1e-4)
    assert abs(scores[0]) > 1e-3


class Fails(L.Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_fit_that_fails_leaves_an_earlier_folder_as_it_is(
    make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path, error: BaseException
) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "config.json").write_text("earlier")
    with pytest.raises((RuntimeError, SystemExit)):
        make_trainer(callbacks=[HuggingFaceExport(folder=folder), Fails(error)]).fit(make_ppo(), make_data())
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert (folder / "config.json").read_text() == "earlier"


def test_fit_that_is_stopped_early_is_exported(
    make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    module = make_ppo(kl_estimator="k3")  # never negative, unlike k1 on a few samples
    make_trainer(callbacks=[HuggingFaceExport(folder=tmp_path / "policy"), KLEarlyStop(max_kl=1e-9)]).fit(
        module, make_data()
    )
    assert module.iterations < 3
    assert (tmp_path / "policy" / "model.safetensors").is_file()


def test_fast_dev_run_writes_nothing(make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[HuggingFaceExport(folder=tmp_path / "policy")], fast_dev_run=True)
    trainer.fit(make_ppo(), make_data())
    assert not (tmp_path / "policy").exists()


def test_wrong_role_is_refused_before_training(
    make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="role='value' is neither 'policy' nor 'reward_model'"):
        HuggingFaceExport(folder=tmp_path / "x", role="value")  # type: ignore[arg-type]  # wrong on purpose
    module = make_ppo()
    with pytest.raises(UserError, match="HuggingFaceExport writes the reward_model and PPOModule has none; set "):
        make_trainer(callbacks=[HuggingFaceExport(folder=tmp_path / "x", role="reward_model")]).fit(module, make_data())
    assert module.iterations == 0


def test_missing_tokenizer_and_folder_that_is_a_file_are_refused(
    make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    from rlhf_lightning.modules import SFTModule

    export = HuggingFaceExport(folder=tmp_path / "x")
    with pytest.raises(UserError, match=r"HuggingFaceExport found no tokenizer: "):
        make_trainer(callbacks=[export], max_steps=1).fit(
            SFTModule(policy=lambda: torch.nn.Linear(1, 1)),
            torch.utils.data.DataLoader(torch.zeros(1, 1)),  # type: ignore[arg-type]  # a tensor serves as a dataset
        )
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match=r"callbacks.export.folder=.*x is a file; give "):
        make_trainer(callbacks=[export]).fit(make_ppo(), make_data())
