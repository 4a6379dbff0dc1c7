"""What the benchmarks work on: random models, a tokenizer of whole words, prompts, comparisons, demonstrations.

    python tests/benchmarks/worlds.py FOLDER

Everything is drawn from fixed seeds. A text of n words has n tokens. The policy ends a response at every token with
one probability, whatever it has read, so that the lengths of responses are known: never (``ending="never"``), or so
that of at most 64 tokens 20 are drawn on average (``ending="short"``).
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
NEVER = -40.0  # a logit beside which no other token is as unlikely


class Size(NamedTuple):
    """Of the models; the default has 5.6M parameters as a language model."""

    vocabulary: int = 4096
    width: int = 256
    inner: int = 800
    layers: int = 4
    heads: int = 4


def config(size: Size) -> LlamaConfig:
    """A Llama's configuration; EOS is token 0, padding 1."""
    return LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=False,
    )


def tokenizer(size: Size) -> PreTrainedTokenizerFast:
    """One token for every word ``w3``, ``w4`` and so on."""
    words = [*SPECIAL.values(), *(f"w{index}" for index in range(len(SPECIAL), size.vocabulary))]
    model = models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=SPECIAL["unk_token"])
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def ending_probability(mean: float, longest: int) -> float:
    """p of E[min(T, longest)] = (1 − (1 − p)^longest) / p = ``mean`` where T is geometric, EOS counted; 0 for never."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** longest) / p > mean else (low, p)
    return 0.0 if mean >= longest else low


def policy(folder: Path, size: Size, *, mean_length: float, longest: int) -> Path:
    """A language model whose responses of at most ``longest`` tokens have ``mean_length`` on average.

    Dimension 0 of its states is constant: the embeddings put 1 there and no block writes to it. The output rows of
    EOS, padding and the unknown word read that dimension alone, all others never, so that one number sets P(EOS).
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(size)).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        head = model.lm_head.weight
        head[:, 0] = 0.0
        head[: len(SPECIAL)] = 0.0
        states = model.model(torch.randint(len(SPECIAL), size.vocabulary, (8, 64))).last_hidden_state.flatten(0, 1)
        others = (states @ head[len(SPECIAL) :].T).logsumexp(-1).mean()
        constant = states[:, 0].mean()
        p = ending_probability(mean_length, longest)
        logit = others + math.log(p / (1 - p)) if p else torch.tensor(NEVER)
        head[: len(SPECIAL), 0] = NEVER / constant
        head[0, 0] = logit / constant
    save(model, folder, size)
    return folder


def reward_model(folder: Path, size: Size) -> Path:
    """A Llama with one label, its head drawn from N(0, 1/d)."""
    torch.manual_seed(1)
    made = config(size)
    made.num_labels = 1
    model = LlamaForSequenceClassification(made)
    with torch.no_grad():
        model.score.weight.normal_(0.0, size.width**-0.5)
    save(model, folder, size)
    return folder


def save(model: Any, folder: Path, size: Size) -> None:
    """Write a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer(size).save_pretrained(str(folder))


def text(draw: random.Random, tokens: int, size: Size) -> str:
    return " ".join(f"w{draw.randrange(len(SPECIAL), size.vocabulary)}" for _ in range(tokens))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def prompts(path: Path, count: int, size: Size, *, shortest: int = 16, longest: int = 48) -> Path:
    """``count`` prompts whose lengths are spread evenly from ``shortest`` to ``longest``."""
    draw, spread = random.Random(2), longest - shortest + 1
    return write(path, [{"prompt": text(draw, shortest + index % spread, size)} for index in range(count)])


def comparisons(path: Path, count: int, size: Size, *, completions: int, prompt: int, completion: int) -> Path:
    """Prompts with ``completions`` ranked responses each, all without ties; ``completion`` counts EOS."""
    draw, rows = random.Random(3), []
    for _ in range(count):
        ranks = draw.sample(range(1, completions + 1), completions)
        responses = [text(draw, completion - 1, size) for _ in ranks]
        rows.append({"prompt": text(draw, prompt, size), "responses": responses, "ranks": ranks})
    return write(path, rows)


def demonstrations(path: Path, count: int, size: Size, *, shortest: int = 16, longest: int = 512) -> Path:
    """Examples whose lengths (EOS counted) are spread evenly on a logarithmic scale; a quarter of each is prompt."""
    draw, rows = random.Random(4), []
    for index in range(count):
        length = round(shortest * (longest / shortest) ** (index / max(count - 1, 1)))
        asked = max(length // 4, 1)
        rows.append({"prompt": text(draw, asked, size), "response": text(draw, length - asked - 1, size)})
    draw.shuffle(rows)
    return write(path, rows)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name, mean in (("never", 64), ("short", 20)):
        print(policy(root / name, Size(), mean_length=mean, longest=64))
    print(reward_model(root / "reward", Size()))
