from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_lightning.callbacks import AdaptiveKLController, HuggingFaceExport, KLEarlyStop, PolicyEMA
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


def test_the_card_tells_of_the_run(
    make_ppo: Any, make_data: Any, make_trainer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    module = make_ppo(kl_coef=0.05)
    folder = tmp_path / "policy"
    trainer = make_trainer(
        callbacks=[PolicyEMA(decay=0.5), AdaptiveKLController(target=1.0, horizon=10), HuggingFaceExport(folder=folder)]
    )
    trainer.fit(module, make_data(text=True))
    lines = (folder / "README.md").read_text().splitlines()
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for line in (
        "# PPO with a pretraining mix (PPO-ptx)",
        "| kl_coef | 0.05 |",
        "| iterations | 3 |",
        "| optimizer steps | 6 |",
        "| data.rollout_batch_size | 8 |",
        "| optimizer | adamw |",
        f"| rollout/score | {logged['rollout/score']:.6g} |",
        f"The KL coefficient was adapted, to {module.kl_coef:.4g} in the end.",
        "It was optimised against the reward `count_vowels`; the metrics below are of the last batch.",
        "Its weights are the average over iterations, of decay 0.5.",
    ):
        assert line in lines, line
    rows = [line for line in lines if line.startswith(("| train |", "| text |"))]
    assert [row.split(" | ")[2] for row in rows] == ["36", "36"]
    assert any("weights were read back from the files and are the model's bit for bit" in m for m in caplog.messages)
    assert str(tmp_path) not in "\n".join(lines)
    assert any(line.startswith("| data.ptx_ratio |") for line in lines)
    make_trainer(callbacks=[HuggingFaceExport(folder=folder)]).fit(make_ppo(), make_data())
    plain = (folder / "README.md").read_text()
    assert "# PPO\n" in plain and "data.ptx_ratio" not in plain and "data.text_block" not in plain


def test_reward_model_card_tells_what_its_scores_are(
    make_scalar_model: Any, make_trainer: Any, encoder: Any, tmp_path: Path
) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"prompt": "a cat", "chosen": "yes.", "rejected": "no!"}\n' * 4)
    (tmp_path / "d.jsonl").write_text('{"prompt": "a cat", "response": "yes."}\n')
    for demonstrations in (None, str(tmp_path / "d.jsonl")):
        data = ComparisonDataModule(encoder=encoder, train=str(file), demonstrations=demonstrations, batch_size=2)
        module = RewardModule(reward_model=make_scalar_model)
        make_trainer(callbacks=[HuggingFaceExport(folder=tmp_path / "rm", role="reward_model")]).fit(module, data)
        text = (tmp_path / "rm" / "README.md").read_text()
        assert "pipeline_tag: text-classification" in text
        assert ("Demonstrations score 0 on average" in text) is (demonstrations is not None)


def test_a_module_and_data_of_ones_own_get_a_card(
    make_causal_lm: Any, make_trainer: Any, encoder: Any, tmp_path: Path
) -> None:
    class Own(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"colour": "green"})
            self.policy, self.encoder = make_causal_lm(), encoder

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.policy(batch.long(), labels=batch.long()).loss
            self.log("own/loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class OwnData(L.LightningDataModule):
        train = torch.ones(2, 4)  # not the name of a file

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(self.train)  # type: ignore[arg-type]  # a tensor serves as a dataset

    make_trainer(callbacks=[HuggingFaceExport(folder=tmp_path / "own")]).fit(Own(), OwnData())
    lines = (tmp_path / "own" / "README.md").read_text().splitlines()
    assert {"# Training with Own", "| colour | green |", "| epochs | 1 |", "## Last metrics"} <= set(lines)
