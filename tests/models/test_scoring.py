from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import RewardModelScorer, WeightedSum, reward_of_first, score_texts

PROMPTS = ["name a pet", "hi", "what is up?"]
RESPONSES = ["a cat", "hello, you there", "the sky"]


@pytest.fixture
def scorer(reward_model_folders: dict[str, Path], architecture: str) -> RewardModelScorer:
    return RewardModelScorer(name=str(reward_model_folders[architecture]))


def test_text_and_ids_give_the_same_scores(scorer: RewardModelScorer, encoder: Encoder) -> None:
    finished = [True, False, True]
    rows = [
        encoder.prompt(p) + encoder.response(r, finished=f)
        for p, r, f in zip(PROMPTS, RESPONSES, finished, strict=True)
    ]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([row + [9] * (int(lengths.max()) - len(row)) for row in rows])  # any padding
    by_id = scorer.score_ids(ids, lengths)
    torch.testing.assert_close(scorer(PROMPTS, RESPONSES, finished), by_id)
    assert (scorer(PROMPTS, RESPONSES) - by_id).abs()[1] > 1e-4  # an EOS more
    for row, length, score in zip(rows, lengths, by_id, strict=True):
        alone = scorer.model.score(torch.tensor([row]), length.view(1))[0]
        torch.testing.assert_close(alone, score, rtol=0, atol=1e-5)


def test_a_reward_model_that_nobody_shards_gets_its_weights_when_it_is_asked(
    scorer: RewardModelScorer, reward_model_folders: dict[str, Path], architecture: str
) -> None:
    """What another process of a sharded run makes, and a reward of a user's own does not hand on."""
    with reward_of_first(1, sharded=True):
        other = RewardModelScorer(name=str(reward_model_folders[architecture]))
    assert all(weight.is_meta for weight in other.model.parameters())
    assert torch.equal(other.to("cpu")(PROMPTS, RESPONSES), scorer(PROMPTS, RESPONSES))
    for rank, sharded in ((0, True), (1, False)):
        with reward_of_first(rank, sharded=sharded):
            whole = RewardModelScorer(name=str(reward_model_folders[architecture]))
        assert not any(weight.is_meta for weight in whole.model.parameters())


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_scores_do_not_depend_on_the_batch_size(scorer: RewardModelScorer, batch_size: int) -> None:
    expected = scorer(PROMPTS, RESPONSES)
    scorer.batch_size = batch_size
    torch.testing.assert_close(scorer(PROMPTS, RESPONSES), expected, rtol=0, atol=1e-5)


def test_the_model_is_frozen(scorer: RewardModelScorer) -> None:
    assert not scorer.model.training
    assert not any(parameter.requires_grad for parameter in scorer.model.parameters())
    assert not scorer(PROMPTS, RESPONSES).requires_grad


def test_a_tokenizer_is_shared_if_it_gives_the_same_ids(
    scorer: RewardModelScorer, encoder: Encoder, encoder_without_pad: Encoder, tmp_path: Path
) -> None:
    assert scorer.shares_tokenizer(encoder)
    assert scorer.shares_tokenizer(encoder_without_pad)  # padding is nobody's business but the batch's
    encoder.save(tmp_path)
    templated = AutoTokenizer.from_pretrained(tmp_path)
    templated.chat_template = "{% for m in messages %}{{ m['content'] }}.{% endfor %}"
    assert not scorer.shares_tokenizer(Encoder(templated))
    assert scorer.shares_tokenizer(encoder)


def test_a_folder_without_a_head_is_refused(causal_lm_folders: dict[str, Path], architecture: str) -> None:
    with pytest.raises(UserError, match="holds no score head"):
        RewardModelScorer(name=str(causal_lm_folders[architecture]))


def test_weighted_sum() -> None:
    def length(prompts: list[str], responses: list[str]) -> torch.Tensor:
        return torch.tensor([len(response) for response in responses])

    def ones(prompts: list[str], responses: list[str]) -> list[float]:
        return [1.0] * len(responses)

    found = WeightedSum(rewards=[length, ones], weights=[0.5, -2])(["a", "b"], ["four", "six ch"])
    assert found.tolist() == [0.0, 1.0]  # ½ · 4 − 2, ½ · 6 − 2
    assert found.dtype == torch.float32


def test_a_weighted_sum_tells_the_rewards_that_ask_which_responses_ended(scorer: RewardModelScorer) -> None:
    """A cut-off response has no EOS for the reward model to read, inside a sum as outside."""
    told: list[list[bool]] = []

    def asks(prompts: list[str], responses: list[str], *, finished: list[bool]) -> list[float]:
        told.append(list(finished))
        return [0.0] * len(responses)

    def does_not(prompts: list[str], responses: list[str]) -> list[float]:
        return [0.0] * len(responses)

    total = WeightedSum(rewards=[scorer, asks, does_not], weights=[2.0, 1.0, 1.0])
    ends = [True, False, True]
    torch.testing.assert_close(score_texts(total, PROMPTS, RESPONSES, ends), 2 * scorer(PROMPTS, RESPONSES, ends))
    torch.testing.assert_close(total(PROMPTS, RESPONSES), 2 * scorer(PROMPTS, RESPONSES))
    assert told == [ends, [True, True, True]]


def test_rewards_without_a_signature_are_called_with_two_arguments() -> None:
    assert score_texts(max, ["a"], ["b"], [True]) == ["b"]  # type: ignore[arg-type]  # a builtin that has no signature


def test_a_conversation_is_scored_through_the_chat_template(
    reward_model_folders: dict[str, Path], encoder: Encoder, architecture: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(reward_model_folders[architecture], tmp_path / "reward"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}. {{ m['content'] }}.{% endfor %}"
    tokenizer.save_pretrained(folder)
    scorer = RewardModelScorer(name=str(folder))
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "go"},
    ]
    # Without a generation prompt the prompt ends before the answer's words; the space belongs to the response.
    ids = encoder.prompt("user. hi.assistant. yes.user. go.assistant.") + encoder.response(" a cat")
    alone = scorer.model.score(torch.tensor([ids]), torch.tensor([len(ids)]))
    torch.testing.assert_close(scorer([talk, "hi"], ["a cat", "ok"])[:1], alone, rtol=0, atol=1e-5)


def test_weighted_sum_needs_as_many_weights() -> None:
    with pytest.raises(UserError, match="2 rewards need as many weights, got 1"):
        # What is added up does not matter here.
        WeightedSum(rewards=[len, len], weights=[1.0])  # type: ignore[list-item]
    with pytest.raises(UserError, match="0 rewards"):
        WeightedSum(rewards=[], weights=[])
