"""Which tokenizers the roles of PPO may have, and what a reward over text is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from rlhf_lightning.data import Encoder, PromptBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import (
    RewardModelScorer,
    ScalarModel,
    WeightedSum,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule
from rlhf_lightning.modules.experience import decode_responses


@pytest.fixture(scope="session")
def foreign_reward(encoder: Encoder, as_trained: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose tokenizer has the same letters by other ids, and a larger vocabulary."""
    letters = [token for token in encoder.tokenizer.get_vocab() if len(token) == 1]
    tokens = [*sorted(letters, reverse=True), "<end>", "th", "<unused>", "<fill>"]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[("t", "h")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    other = Encoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<fill>"))
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("foreign")
    save_model_folder(LlamaForCausalLM(config), other, folder / "base")
    scalar = as_trained(load_scalar_model(name=str(folder / "base"), head="new"))
    return save_model_folder(scalar, other, folder / "reward")


def test_a_reward_model_with_another_tokenizer_scores_text_and_knows_its_end(
    make_ppo: Callable[..., PPOModule], prompts: PromptBatch, foreign_reward: Path
) -> None:
    scorer = RewardModelScorer(name=str(foreign_reward))
    module = make_ppo(reward=scorer, max_new_tokens=6)
    module.configure_model()
    assert not scorer.shares_tokenizer(module.encoder)
    generation = module.rollout(prompts, torch.Generator().manual_seed(4))
    texts, finished = decode_responses(module.encoder, generation), generation.finished.tolist()
    assert len(set(finished)) == 2
    found = module.score(prompts, generation)
    other = scorer.encoder
    for prompt, text, end, score in zip(prompts.prompts, texts, finished, found, strict=True):
        ids = other.prompt(prompt) + other.response(text, finished=end)
        assert (ids[-1] == other.eos_token_id) == end
        alone = scorer.model.score(torch.tensor([ids]), torch.tensor([len(ids)]))
        torch.testing.assert_close(score, alone[0], rtol=0, atol=1e-5)
    module.reward = WeightedSum(rewards=[scorer], weights=[3.0])
    torch.testing.assert_close(module.score(prompts, generation), 3 * found, rtol=1e-5, atol=1e-5)


def test_a_reward_function_may_ask_which_responses_ended(
    make_ppo: Callable[..., PPOModule], prompts: PromptBatch
) -> None:
    def one_if_ended(prompts: list[str], responses: list[str], finished: list[bool]) -> list[float]:
        return [float(end) for end in finished]

    module = make_ppo(reward=one_if_ended, max_new_tokens=6)
    module.configure_model()
    generation = module.rollout(prompts, torch.Generator().manual_seed(4))
    assert torch.equal(module.score(prompts, generation), generation.finished.float())
    assert generation.finished.any()


def test_a_value_model_with_another_vocabulary_than_the_policy_is_refused(
    make_ppo: Callable[..., PPOModule], fit: Callable[..., L.Trainer], prompts: PromptBatch, foreign_reward: Path
) -> None:
    scorer = RewardModelScorer(name=str(foreign_reward))
    value = partial(load_scalar_model, name=str(foreign_reward))
    for reward in (scorer, WeightedSum(rewards=[scorer], weights=[1.0])):
        with pytest.raises(UserError, match=f"module.value.name={foreign_reward} is a reward model with another token"):
            fit(make_ppo(reward=reward, value=value), [{"prompts": prompts}])
    fit(make_ppo(reward=scorer), [{"prompts": prompts}])  # a value model of the policy's kind
    fit(make_ppo(reward=scorer, value=None), [{"prompts": prompts}])


@pytest.mark.parametrize("role", ["policy", "reference", "value"])
def test_a_role_with_fewer_rows_than_tokens_is_refused_before_training(
    make_ppo: Callable[..., PPOModule],
    make_causal_lm: Callable[[str], PreTrainedModel],
    make_scalar_model: Callable[[str], ScalarModel],
    fit: Callable[..., L.Trainer],
    prompts: PromptBatch,
    role: str,
) -> None:
    def small() -> Any:
        model: Any = make_scalar_model("llama") if role == "value" else make_causal_lm("llama")
        (model.model if role == "value" else model).resize_token_embeddings(30)
        return model

    with pytest.raises(UserError, match="tokenizer is larger than the .*embedding: it has 35 ids and .* 30 rows"):
        fit(make_ppo(**{role: small}), [{"prompts": prompts}])


def test_sft_and_reward_training_refuse_it_too(
    causal_lm_folders: dict[str, Path], make_trainer: Callable[..., L.Trainer], encoder: Encoder
) -> None:
    class Data(L.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def train_dataloader(self) -> list[int]:
            raise AssertionError("read before the check")

    def small_policy() -> Any:
        model = load_causal_lm(name=str(causal_lm_folders["llama"]))
        model.resize_token_embeddings(30)
        return model

    def small_reward() -> Any:
        model = load_scalar_model(name=str(causal_lm_folders["llama"]), head="new")
        model.model.resize_token_embeddings(30)
        return model

    for module in (SFTModule(policy=small_policy), RewardModule(reward_model=small_reward)):
        with pytest.raises(UserError, match="tokenizer is larger than the (policy|reward model)'s embedding"):
            make_trainer().fit(module, datamodule=Data())


def test_a_policys_sampling_settings_are_named(
    make_ppo: Callable[..., PPOModule],
    make_causal_lm: Callable[[str], PreTrainedModel],
    fit: Callable[..., L.Trainer],
    prompts: PromptBatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def with_settings() -> Any:
        model = make_causal_lm("llama")
        model.generation_config.top_k = 5
        return model

    with caplog.at_level(logging.WARNING):
        fit(make_ppo(policy=with_settings), [{"prompts": prompts}] * 2)
    assert [record.getMessage() for record in caplog.records if "top_k=5" in record.getMessage()] == [
        "generation_config sets top_k=5: not used here, since samples must come from the model's own distribution; "
        "exported models keep these settings"
    ]
