"""How plain transformers and peft load an exported folder, as Python that a reader can run."""

from __future__ import annotations

import json

from rlhf_lightning.data import Encoder

_PROMPT, _REPLY = "Name a cat.", "Tom."


def usage(encoder: Encoder, *, scalar: bool, adapter: bool = False) -> str:
    """Python that loads the folder and samples a response, or scores one.

    It makes the ids that :class:`~rlhf_lightning.data.Encoder` makes, so that the model reads what it was trained on.

    Args:
        encoder: whose prompts the model was trained on.
        scalar: whether the model gives scores, or else text.
        adapter: whether the folder holds an adapter alone, which names its base.
    """
    auto = "AutoModelForSequenceClassification" if scalar else "AutoModelForCausalLM"
    options = ", num_labels=1" if scalar else ""
    lines = ["import torch"]
    if adapter:
        lines.append("from peft import PeftConfig, PeftModel")
    lines += [
        f"from transformers import {auto}, AutoTokenizer",
        "",
        'folder = "."  # this folder, or the name that it has on the Hub',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    if not adapter:
        lines.append(f"model = {auto}.from_pretrained(folder)")
    else:
        lines += [
            "base = PeftConfig.from_pretrained(folder).base_model_name_or_path  # or where else the base model is",
            f"model = PeftModel.from_pretrained({auto}.from_pretrained(base{options}), folder)",
        ]
    lines += ["model.eval()", *_prompt(encoder)]
    return "\n".join(lines + (_score(encoder) if scalar else _sample()))


def _prompt(encoder: Encoder) -> list[str]:
    if not encoder.tokenizer.chat_template:
        begin = "[tokenizer.bos_token_id] + " if encoder.open([]) else ""
        return [f'ids = {begin}tokenizer("{_PROMPT}", add_special_tokens=False).input_ids']
    messages = [{"role": "user", "content": _PROMPT}]
    if encoder.system is not None:
        messages.insert(0, {"role": "system", "content": encoder.system})
    render = "tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"
    trimmed = encoder.texts(_PROMPT)[0] != encoder.rendered(messages, True)  # a template without a generation prompt
    return [
        f"messages = {json.dumps(messages, ensure_ascii=False)}",
        f"prompt = {json.dumps(encoder.texts(_PROMPT)[0], ensure_ascii=False)}" if trimmed else f"prompt = {render}",
        "ids = tokenizer(prompt, add_special_tokens=False).input_ids",
    ]


def _score(encoder: Encoder) -> list[str]:
    text = encoder.texts(_PROMPT, _REPLY)[1]  # with what the template writes before an answer's words
    return [
        f"ids += tokenizer({json.dumps(text, ensure_ascii=False)}, add_special_tokens=False).input_ids",
        "with torch.no_grad():",
        "    score = model(input_ids=torch.tensor([[*ids, tokenizer.eos_token_id]])).logits.item()",
        "print(score)",
    ]


def _sample() -> list[str]:
    return [
        "prompt_ids = torch.tensor([ids])",
        "found = model.generate(input_ids=prompt_ids, attention_mask=torch.ones_like(prompt_ids), do_sample=True, "
        "top_k=0, max_new_tokens=256)",
        "print(tokenizer.decode(found[0, len(ids):], skip_special_tokens=True))",
    ]
