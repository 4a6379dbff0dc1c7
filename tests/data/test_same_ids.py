"""What SFT trains on, what the reward model scores and what PPO rolls out from are the same ids."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlhf_lightning.data import Encoder, load_comparisons, load_demonstrations, load_prompts

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content, thought = m.content, '' %}"
    "{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""An empty think block before the last answer, and none in a generation prompt."""
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Like Mistral's: no generation prompt, and a space before the answer."""
TEMPLATES = {"ChatML": CHATML, "Qwen3": QWEN3, "Llama3": LLAMA3, "Gemma": GEMMA, "bare": BARE, "brackets": BRACKETS}
SPECIAL = {
    "Llama3": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "Gemma": ["<bos>", "<end_of_turn>", "<start_of_turn>"],
}
"""BOS and EOS first."""
ANSWERS = ["a", "hi", "is", "in", "user", "assistant", "The cat.", " The cat.\n", "<b>in</b>"]
QUESTION = "Say it"
TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": QUESTION},
]


@functools.cache
def encoder_of(name: str | None) -> Encoder:
    """A tokenizer of bytes with some merges, whose text comes back as it was."""
    special = SPECIAL.get(name or "", ["<s>", "<|im_end|>", "<|im_start|>"])
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    words.train_from_iterator(["assistant user think in The cat is hi Say it"] * 9, trainer)
    words.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], 0)])
    template = None if name is None else TEMPLATES[name]
    return Encoder(
        PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token=special[0], eos_token=special[1], chat_template=template
        )
    )


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def sharegpt(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[m["role"]], "value": m["content"]} for m in messages]


def shapes(turns: list[dict[str, str]], answer: str) -> dict[str, list[dict[str, Any]]]:
    """Every shape that SFT, reward and prompt rows of a conversation can have."""
    ask, whole, other = turns[-1]["content"], [*turns, assistant(answer)], [*turns, assistant("x")]
    demonstrations: list[dict[str, Any]] = [{"messages": whole}, {"conversations": sharegpt(whole)}]
    demonstrations += [{"prompt": turns, "completion": [assistant(answer)]}, {"prompt": turns, "response": answer}]
    comparisons: list[dict[str, Any]] = [
        {"chosen": whole, "rejected": other},
        {"prompt": turns, "chosen": answer, "rejected": "x"},
        {"prompt": turns, "responses": [answer, "x"], "ranks": [1, 2]},
        {"prompt": turns, "chosen": [assistant(answer)], "rejected": [assistant("x")]},
    ]
    prompts: list[dict[str, Any]] = [{"messages": whole}, {"conversations": sharegpt(turns)}, {"prompt": turns}]
    if len(turns) == 1:
        demonstrations += [{"prompt": ask, "response": answer}, {"question": ask, "answer": answer}]
        comparisons += [{"prompt": ask, "chosen": answer, "rejected": "x"}]
        comparisons += [{"instruction": ask, "output_1": answer, "output_2": "x", "preference": 1}]
        prompts += [{"prompt": ask}, {"instruction": ask}]
    return {"demonstrations": demonstrations, "comparisons": comparisons, "prompts": prompts}


@pytest.mark.parametrize("turns", [TURNS[2:], TURNS], ids=["one turn", "three turns"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_shape_gives_every_stage_the_same_ids(
    write: Callable[..., Path], name: str, turns: list[dict[str, str]]
) -> None:
    encoder, answers = encoder_of(name), ["hi", " The cat.\n"]
    examples = [encoder.example(turns, answer) for answer in answers]
    question = examples[0][0]
    rows = [shapes(turns, answer) for answer in answers]
    for kind in rows[0]:
        for number, both in enumerate(zip(*(row[kind] for row in rows), strict=True)):
            path = write(f"{kind}{number}.jsonl", *both)
            if kind == "demonstrations":
                found = load_demonstrations(path, encoder=encoder)
                assert found["input_ids"][:] == [prompt + reply for prompt, reply in examples], both
                assert found["prompt_length"][:] == [len(question)] * 2
            elif kind == "comparisons":
                found = load_comparisons(path, encoder=encoder)[0]
                read = [(row["prompt_ids"], row["response_ids"][0]) for row in found]
                assert read == examples, both
            else:
                assert load_prompts(path, encoder=encoder)["input_ids"][:] == [question] * 2, both
    assert encoder.prompt(turns) == question
    for _, reply in examples:  # what was sampled, when it is read as text
        assert encoder.example(turns, encoder.decode(reply))[1] == reply


def test_text_without_a_template(write: Callable[..., Path]) -> None:
    encoder = encoder_of(None)
    demonstration = write("d.jsonl", {"prompt": "Say it:", "response": " in"})
    comparison = write("c.jsonl", {"prompt": "Say it:", "chosen": " in", "rejected": "x"})
    prompt = write("p.jsonl", {"prompt": "Say it:"})
    question, reply = encoder.example("Say it:", " in")
    assert encoder.tokenizer.decode(question + reply) == "<s>Say it: in<|im_end|>"
    assert load_demonstrations(demonstration, encoder=encoder)[0]["input_ids"] == question + reply
    found = load_comparisons(comparison, encoder=encoder)[0][0]
    assert (found["prompt_ids"], found["response_ids"][0]) == (question, reply)
    assert load_prompts(prompt, encoder=encoder)[0]["input_ids"] == question


@pytest.mark.parametrize("turns", [TURNS[2:], TURNS], ids=["one turn", "three turns"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_conversation_reads_as_transformers_renders_it(name: str, answer: str, turns: list[dict[str, str]]) -> None:
    encoder = encoder_of(name)
    tokenizer = encoder.tokenizer
    question, reply = encoder.example(turns, answer)
    written = tokenizer.decode(question + reply[:-1])
    rendered = tokenizer.apply_chat_template([*turns, assistant(answer)], tokenize=False)
    assert rendered.removeprefix(written) in ("<|im_end|>\n", "<|im_end|>", "<|eot_id|>", "<end_of_turn>\n", "\n")
    assert written.rstrip("\n").endswith(answer.strip())
    words = encoder.decode(reply)
    assert words == (answer.strip() if "trim" in TEMPLATES[name] else answer)


@pytest.mark.parametrize(
    ("name", "prompt", "response"),
    [
        ("ChatML", "<|im_start|>user\nSay it<|im_end|>\n<|im_start|>assistant\n", "hi"),
        ("Qwen3", "<|im_start|>user\nSay it<|im_end|>\n<|im_start|>assistant\n", "<think>\n\n</think>\n\nhi"),
        ("Gemma", "<bos><start_of_turn>user\nSay it<end_of_turn>\n<start_of_turn>model\n", "hi"),
        ("bare", "user: Say it\nassistant:", " hi"),
        ("brackets", "<s>[INST] Say it [/INST]", " hi"),
    ],
)
def test_where_the_prompt_ends(name: str, prompt: str, response: str) -> None:
    assert encoder_of(name).texts(QUESTION, "hi") == [prompt, response]


def test_thought_of_an_answer_is_written_as_the_template_does() -> None:
    thought = "<think>\nWhy?\n</think>\n\nhi"
    encoder = encoder_of("Qwen3")
    assert encoder.texts(QUESTION, "<think>Why?</think>hi")[1] == thought
    assert encoder.decode(encoder.example(QUESTION, thought)[1]) == thought


@pytest.mark.parametrize("name", ["ChatML", "Qwen3", "Llama3", "Gemma", "brackets"])
def test_learning_all_turns_changes_no_id(write: Callable[..., Path], name: str) -> None:
    encoder = encoder_of(name)
    path = write("a.jsonl", {"messages": [*TURNS, assistant("in")]})
    last, whole = (load_demonstrations(path, encoder=encoder, train_on=choice)[0] for choice in ("last", "all"))
    assert whole["input_ids"] == last["input_ids"]
    first, end, start, length = whole["spans"]
    assert encoder.tokenizer.decode(whole["input_ids"][first:end]).strip() == f"Hi{encoder.tokenizer.eos_token}"
    assert (start, length) == (last["prompt_length"], last["length"])
