"""Answers to the questions of a task: written, chosen, kept and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf_lightning.data import Encoder
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.benchmarks import (
    Question,
)
from rlhf_lightning.evaluation.benchmarks.answering import answer, check_newline, cut_at_newline
from rlhf_lightning.evaluation.benchmarks.store import Store, key_of
from rlhf_lightning.evaluation.loaded import LoadedModel
from rlhf_lightning.models import TokenLogprobs


def _loaded(model: Any, encoder: Encoder) -> LoadedModel:
    return LoadedModel(model, encoder, TokenLogprobs(model))


def test_an_answer_is_what_stands_before_the_first_newline(
    make_task: Any, scripted: Any, encoder: Encoder, tmp_path: Path
) -> None:
    assert [cut_at_newline(text) for text in (" a b \nc", "", "\nb", "a")] == ["a b ", "", "", "a"]
    model = scripted(" a dog.\nand")
    task = make_task([Question("q", {"p": "who?"})], max_new_tokens=11)
    found = answer(task, "p", _loaded(model, encoder), fingerprint="f", store=tmp_path)
    assert found.answers == [["a dog."]]
    assert model.step == 8  # decoding ended with the newline


def test_a_prefix_stands_before_the_prompt(make_task: Any, scripted: Any, encoder: Encoder, tmp_path: Path) -> None:
    model = scripted("a\n")
    task = make_task([Question("q", {"p": "who?"})], max_new_tokens=2)
    answer(task, "p", _loaded(model, encoder), fingerprint="f", prefix="solved\n\n", store=tmp_path)
    assert model.read == [encoder.document("solved\n\nwho?", eos=False)]


def test_a_long_prompt_loses_its_beginning_and_is_counted(
    make_task: Any, scripted: Any, encoder: Encoder, tmp_path: Path
) -> None:
    model = scripted("a\n", most=8)
    task = make_task([Question("q", {"p": "abcdefghij"}), Question("q", {"p": "xy"})], max_new_tokens=3)
    found = answer(task, "p", _loaded(model, encoder), fingerprint="f", store=tmp_path, batch_size=1)
    assert found.cut == 1
    assert encoder.decode(model.read[1]) == "fghij"
    choosing = make_task([Question("q", {"p": ""}, choices=("abcdefghij", "b"))])
    with pytest.raises(UserError, match="leave no room for a prompt in the model's context of 8"):
        answer(choosing, "p", _loaded(model, encoder), fingerprint="f", store=tmp_path)


def test_choices_are_worth_their_total_logprob(
    make_task: Any, make_causal_lm: Callable[..., Any], encoder: Encoder, tmp_path: Path
) -> None:
    model = make_causal_lm().requires_grad_(False)
    task = make_task(
        [Question("q", {"p": "so "}, choices=("he runs", "she")), Question("q", {"p": ""}, choices=("a b",))]
    )
    found = answer(task, "p", _loaded(model, encoder), fingerprint="f", store=tmp_path, batch_size=2).answers
    for question, choices in zip(task.questions, found, strict=True):
        for text, (logprob, tokens) in zip(question.choices, choices, strict=True):
            # Without a BOS of the tokenizer's own, EOS stands in front of what has no prompt.
            ids = encoder.document(question.prompts["p"], eos=False) or [encoder.eos_token_id]
            end = encoder.response(text, finished=False)
            logprobs = model(torch.tensor([ids + end])).logits[0].log_softmax(-1)
            expected = sum(float(logprobs[len(ids) - 1 + place, token]) for place, token in enumerate(end))
            assert logprob == pytest.approx(expected, abs=1e-4)
            assert tokens == len(end)


def test_answers_go_on_where_they_stopped(
    make_task: Any, make_causal_lm: Callable[..., Any], encoder: Encoder, tmp_path: Path
) -> None:
    task = make_task([Question("q", {"p": "go" * n}) for n in range(1, 6)], max_new_tokens=4, samples=3)
    options: dict[str, Any] = {"fingerprint": "f", "batch_size": 2}
    whole = answer(task, "p", _loaded(make_causal_lm(), encoder), store=tmp_path / "whole", **options)
    assert len({text for texts in whole.answers for text in texts}) > 5  # they are drawn
    file = tmp_path / "stopped" / f"{whole.key}.jsonl"
    file.parent.mkdir()
    lines = (tmp_path / "whole" / file.name).read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][:9])  # killed within the third batch
    model = make_causal_lm()
    assert answer(task, "p", _loaded(model, encoder), store=file.parent, **options) == whole
    assert sorted(json.loads(line)["row"] for line in file.read_text().splitlines()) == sorted(
        [*range(15), json.loads(lines[4])["row"]]
    )  # only the batch that was not whole was answered again


def test_the_key_knows_all_that_answers_depend_on(
    make_task: Any, scripted: Any, encoder: Encoder, tmp_path: Path
) -> None:
    def key(prompt: str = "who?", cap: int = 2, fingerprint: str = "f", prefix: str = "", batch_size: int = 2) -> str:
        task = make_task([Question("q", {"p": prompt})], max_new_tokens=cap)
        loaded = _loaded(scripted("a\n"), encoder)
        store = tmp_path / "store"
        found = answer(task, "p", loaded, fingerprint=fingerprint, prefix=prefix, store=store, batch_size=batch_size)
        return found.key

    others = [key(prompt="why?"), key(cap=1), key(fingerprint="g"), key(prefix="x")]
    assert len({key(), *others}) == 5
    assert key(batch_size=1) == key()  # greedy answers do not depend on it
    assert key_of(a=1, b=2) == key_of(b=2, a=1) != key_of(a=2, b=1)


def test_a_store_drops_a_half_written_line(tmp_path: Path) -> None:
    Store(tmp_path, "k").add({0: "a\nb", 2: "None"})
    with (tmp_path / "k.jsonl").open("a") as file:
        file.write('{"row": 1, "ans')
    store = Store(tmp_path, "k")
    assert store.known == {0: "a\nb", 2: "None"}
    store.add({1: ""})
    assert Store(tmp_path, "k").known == {0: "a\nb", 1: "", 2: "None"}


def test_a_tokenizer_without_a_newline_is_refused(encoder: Encoder) -> None:
    check_newline("m", encoder)
    deaf = SimpleNamespace(response=lambda text, finished: [1], decode=lambda ids: "ab")
    with pytest.raises(UserError, match=r"models\.m: the tokenizer has no token for a newline"):
        check_newline("m", deaf)  # type: ignore[arg-type]
