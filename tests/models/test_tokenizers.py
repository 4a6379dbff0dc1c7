"""Tokenizers of every habit give all stages the same ids, and one BOS."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from rlhf_lightning.data import Encoder, collate_comparisons, collate_prompts, collate_tokens
from rlhf_lightning.models import (
    RewardModelScorer,
    generate,
    load_causal_lm,
    load_scalar_model,
    save_model_folder,
)
from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule

SHARED = Path(os.environ.get("RLHF_SHARED", Path(__file__).resolve().parents[3] / "shared"))
PLAIN = "{% for m in messages %}{{ m['role'] }}. {{ m['content'] }}.{% endfor %}"
WITH_BOS = "{{ bos_token }}" + PLAIN
EOS, BOS = 0, 2


def _tokenizer(encoder: Encoder, *, adds_bos: bool, template: str | None, pad: str | None, bos: bool = True) -> Any:
    tokenizer = copy.deepcopy(encoder.tokenizer)
    if adds_bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    if not bos:
        tokenizer.bos_token = None
    if pad == "<unk>":
        tokenizer.add_special_tokens({"unk_token": "?"})
        pad = "?"
    tokenizer.pad_token = pad
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("pad", ["<pad>", "</s>", "<unk>", None])
@pytest.mark.parametrize(
    ("adds_bos", "template", "bos", "of_prompt", "of_document"),
    [
        (True, None, True, 1, 1),
        (False, None, True, 0, 0),
        (False, WITH_BOS, True, 1, 0),
        (True, WITH_BOS, True, 1, 1),  # by both: still one
        (True, PLAIN, True, 0, 1),  # the template is the whole truth about prompts
        (False, None, False, 0, 0),
        (False, PLAIN, False, 0, 0),
    ],
)
def test_one_bos_and_the_same_ids_in_every_stage(
    adds_bos: bool,
    template: str | None,
    bos: bool,
    of_prompt: int,
    of_document: int,
    pad: str | None,
    encoder: Encoder,
    model_folder: Callable[..., Path],
    tmp_path: Path,
    as_trained: Callable[..., Any],
) -> None:
    own = Encoder(_tokenizer(encoder, adds_bos=adds_bos, template=template, pad=pad, bos=bos))
    prompt = own.prompt("name a cat")
    assert (prompt.count(BOS), prompt[:of_prompt].count(BOS)) == (of_prompt, of_prompt)
    assert own.document("a cat sat").count(BOS) == of_document
    assert own.response("a dog").count(BOS) == 0
    assert own.response("a dog")[-1:] == [EOS]
    assert own.response("a dog").count(EOS) == 1
    assert own.pad_token_id == (EOS if pad is None else own.tokenizer.pad_token_id)
    # A reward model trained with this tokenizer, loaded anew, scores the text of PPO as it scores its ids.
    model = as_trained(load_scalar_model(name=str(model_folder("llama")), head="new"))
    folder = save_model_folder(model, own, tmp_path / "reward")
    scorer = RewardModelScorer(name=str(folder))
    assert scorer.shares_tokenizer(own)
    pairs = [own.example(text, answer) for text, answer in (("name a cat", "tom"), ("hi", "yes, hi"))]
    rows = [question + reply for question, reply in pairs]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([row + [own.pad_token_id] * (int(lengths.max()) - len(row)) for row in rows])
    by_text = scorer(["name a cat", "hi"], ["tom", "yes, hi"])
    torch.testing.assert_close(by_text, scorer.score_ids(ids, lengths), rtol=0, atol=1e-5)


@pytest.mark.shared_data
def test_a_real_model_whose_padding_is_its_unknown_token_goes_through_all_stages(
    fit: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    base = SHARED / "models" / "stories260k"
    if not base.is_dir():
        pytest.skip(f"no real model in {SHARED}; set RLHF_SHARED to its folder")
    encoder = Encoder.from_pretrained(base)
    assert encoder.pad_token_id == encoder.tokenizer.unk_token_id == 0
    texts = ["Once upon a time there was a dog.", "Tom had a red ball.", "The sun was hot.", "Lily saw a bird."]
    answers = ["The dog ran home.", "He liked it a lot.", "They went to swim.", "It sang to her. She was happy."]
    prompts = [encoder.prompt(text) for text in texts]
    rows = [
        {"input_ids": ids + encoder.response(answer), "prompt_length": len(ids)}
        for ids, answer in zip(prompts, answers, strict=True)
    ]
    sft = SFTModule(policy=functools.partial(load_causal_lm, name=str(base)), learning_rate=3e-3)
    fit(sft, [collate_tokens(rows, pad_id=encoder.pad_token_id)] * 60)
    policy = str(save_model_folder(sft.policy, encoder, tmp_path / "sft"))
    batch = collate_prompts(
        [{"input_ids": ids, "prompt": text} for ids, text in zip(prompts, texts, strict=True)] * 2, pad_id=0
    )
    found = generate(sft.policy, batch.input_ids, batch.lengths, max_new_tokens=24, eos_token_id=2, pad_token_id=0)
    assert found.finished.all()  # the base model never ends
    assert encoder.decode(found.response_ids[0]) in answers

    comparisons = [
        {"prompt_ids": ids, "response_ids": [encoder.response(answer), encoder.response("No.")], "pairs": [(0, 1)]}
        for ids, answer in zip(prompts, answers, strict=True)
    ]
    reward = RewardModule(
        reward_model=functools.partial(load_scalar_model, name=policy, head="new"), learning_rate=1e-3
    )
    accuracy = fit(reward, [collate_comparisons(comparisons, pad_id=0)] * 8)["train/accuracy"]
    assert accuracy == 1.0
    scorer = RewardModelScorer(name=str(save_model_folder(reward.reward_model, encoder, tmp_path / "rm")))
    alone = torch.cat([scorer([text], [answer]) for text, answer in zip(texts, answers, strict=True)])
    torch.testing.assert_close(scorer(texts, answers), alone, rtol=0, atol=1e-5)

    ppo = PPOModule(
        policy=functools.partial(load_causal_lm, name=policy),
        value=functools.partial(load_scalar_model, name=str(tmp_path / "rm")),
        reward=scorer,
        encoder=Encoder.from_pretrained(policy),
        max_new_tokens=24,
        minibatch_size=4,
        learning_rate=0.0,
        value_learning_rate=0.0,
    )
    metrics = fit(ppo, [{"prompts": batch}] * 2)
    assert metrics["train/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["rollout/kl"] == pytest.approx(0.0, abs=1e-4)
