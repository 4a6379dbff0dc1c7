"""Good models pass; each way to break one makes its own check fail and no other."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.data import DemonstrationDataModule, Encoder, PromptDataModule
from rlhf_lightning.diagnosis import Finding, diagnose, plan_of
from rlhf_lightning.models import Lora, load_causal_lm, load_scalar_model, save_model_folder
from rlhf_lightning.models.heads import NEW_HEAD
from rlhf_lightning.planning import MemoryPlan, RoleMemory

LOADS, PADDING, SAMPLING = "model and tokenizer load", "padding changes nothing", "sampling is teacher forcing"
EOS, RATIO, ADAPTER = "EOS is learned", "ratio 1, KL 0 at rate 0", "adapter learns"
TEMPLATE, HEAD, DATA, MEMORY = "chat template", "reward head", "data", "memory"
OF_THE_MODEL = {LOADS, PADDING, SAMPLING, EOS, RATIO, ADAPTER}

Examined = Callable[..., dict[str, Finding]]


def failed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.result == "fail"}


def passed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.result == "pass"}


def test_good_models_pass(load: Callable[..., Any], examined: Examined, architecture: str) -> None:
    findings = examined(load(architecture))
    assert not failed(findings), findings
    assert passed(findings) == OF_THE_MODEL
    assert list(findings) == [LOADS, PADDING, SAMPLING, EOS, TEMPLATE, RATIO, HEAD, DATA, ADAPTER, MEMORY]


def test_padding_that_is_eos_passes(
    load: Callable[..., Any], examined: Examined, encoder_without_pad: Encoder, architecture: str
) -> None:
    findings = examined(load(architecture, lora=None), encoder=lambda: encoder_without_pad)
    assert passed(findings) == OF_THE_MODEL - {ADAPTER}
    assert not failed(findings)
    assert findings[EOS].found.endswith("padding is EOS")
    assert findings[ADAPTER].result == "skip"


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bfloat16"},
        {"activation_checkpointing": True},
        {"lora": Lora(rank=2, trainable_tokens=["eos"])},
        {"lora": Lora(rank=2, modules_to_save=["embed_tokens"])},
    ],
)
def test_options_of_a_model_pass(load: Callable[..., Any], examined: Examined, options: dict[str, Any]) -> None:
    assert passed(examined(load(**options))) == OF_THE_MODEL


def test_weights_come_back_as_they_were_but_for_the_adapter(load: Callable[..., Any], examined: Examined) -> None:
    model = load("llama", lora=None)
    before = copy.deepcopy(model.state_dict())
    examined(model)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# One way to break a model for each check.


def test_a_model_that_reads_its_padding(load: Callable[..., Any], examined: Examined, encoder: Encoder) -> None:
    model = load()

    def read_padding(layer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        ends = arguments[0][:, -2:] == encoder.pad_token_id  # right padding, which sampling has not
        return output + ends.all(1)[:, None, None] * (ends.shape[1] == 2)

    model.get_input_embeddings().register_forward_hook(read_padding)
    findings = examined(model)
    assert failed(findings) == {PADDING}
    assert "differ by" in findings[PADDING].found and findings[PADDING].advice


def test_a_cache_that_is_wrong(load: Callable[..., Any], examined: Examined) -> None:
    model = load()

    def drift(layer: nn.Module, arguments: Any, settings: dict[str, Any], output: Any) -> Any:
        cache = settings.get("past_key_values")
        if cache is not None and settings["input_ids"].shape[1] == 1:
            output.logits = output.logits.roll(1, -1)
        return output

    model.register_forward_hook(drift, with_kwargs=True)
    findings = examined(model)
    assert failed(findings) == {SAMPLING}
    assert "teacher-forced" in findings[SAMPLING].found


def test_dropout_that_stays_on(load: Callable[..., Any], examined: Examined) -> None:
    model = load()
    model.get_input_embeddings().register_forward_hook(
        lambda layer, arguments, output: nn.functional.dropout(output, 0.2, training=layer.training)
    )
    findings = examined(model)
    assert failed(findings) == {RATIO}
    assert "dropout" in findings[RATIO].found + findings[RATIO].advice


def test_an_output_layer_that_holds_eos_fixed(load: Callable[..., Any], examined: Examined, encoder: Encoder) -> None:
    model = load()
    # On what the head gives, before the check looks at it: the gradient of EOS's own logit is then 0.
    model.get_output_embeddings().register_forward_hook(lambda layer, arguments, output: _fixed(output, encoder))
    findings = examined(model)
    assert failed(findings) == {EOS}
    assert "EOS" in findings[EOS].found


def _fixed(output: Tensor, encoder: Encoder) -> Tensor:
    if output.requires_grad:
        others = torch.ones(output.shape[-1], device=output.device)
        others[encoder.eos_token_id] = 0
        output.register_hook(lambda gradient: gradient * others)
    return output


def test_an_embedding_that_names_eos_as_padding(load: Callable[..., Any], examined: Examined, encoder: Encoder) -> None:
    model = load()
    model.get_input_embeddings().padding_idx = encoder.eos_token_id
    assert failed(examined(model)) == {EOS}


def test_an_adapter_of_which_a_part_is_frozen(load: Callable[..., Any], examined: Examined) -> None:
    model = load()
    frozen = [parameter for name, parameter in model.named_parameters() if "lora_B" in name][:3]
    for parameter in frozen:
        parameter.requires_grad_(False)
    findings = examined(model)
    assert failed(findings) == {ADAPTER}
    assert findings[ADAPTER].found.startswith("3 of ")


def test_a_base_that_moves(load: Callable[..., Any], examined: Examined) -> None:
    model = load()
    norm = next(p for name, p in model.named_parameters() if "norm" in name)
    calls: list[int] = []

    def move(layer: nn.Module, arguments: Any) -> None:
        if layer.training and torch.is_grad_enabled():
            calls.append(1)
            with torch.no_grad():
                norm.mul_(1.0 if len(calls) < 3 else 1.5)

    model.base_model.register_forward_pre_hook(move)
    findings = examined(model)
    assert ADAPTER in failed(findings)
    assert "changed" in findings[ADAPTER].found


def test_a_model_that_cannot_be_loaded_skips_what_needs_it(encoder: Encoder) -> None:
    found = {
        finding.check: finding
        for finding in diagnose(policy=lambda: load_causal_lm(name="./nowhere"), encoder=lambda: encoder)
    }
    assert failed(found) == {LOADS}
    assert "nowhere" in found[LOADS].found
    assert all(found[name].result == "skip" for name in OF_THE_MODEL - {LOADS})


def test_a_tokenizer_that_is_larger_than_the_embedding(
    load: Callable[..., Any], examined: Examined, encoder: Encoder
) -> None:
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.add_tokens(["extra"])
    findings = examined(load(), encoder=lambda: Encoder(tokenizer))
    assert failed(findings) == {LOADS}
    assert "extra" in findings[LOADS].found


def test_an_error_of_one_check_hides_no_other(
    load: Callable[..., Any], examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **settings: Any) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("rlhf_lightning.diagnosis.passes.generate", broken)
    findings = examined(load())
    assert failed(findings) == {SAMPLING}
    assert findings[SAMPLING].found == "ZeroDivisionError: by accident"


# Chat templates.

GOOD = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def with_template(encoder: Encoder, template: str) -> Callable[[], Encoder]:
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template = template
    return lambda: Encoder(tokenizer)


def test_a_good_template_passes(load: Callable[..., Any], examined: Examined, encoder: Encoder) -> None:
    findings = examined(load(), encoder=with_template(encoder, GOOD))
    assert not failed(findings), findings
    assert findings[TEMPLATE].found == "one BOS; an answer ends with EOS (</s>)"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (GOOD.replace("{{ bos_token }}", "{{ bos_token + bos_token }}"), "two BOS"),
        (GOOD.replace("{{ eos_token }}", " stop."), "'stop.'"),
    ],
)
def test_a_template_with_two_bos_or_another_end(
    load: Callable[..., Any], examined: Examined, encoder: Encoder, template: str, found: str
) -> None:
    findings = examined(load(), encoder=with_template(encoder, template))
    assert failed(findings) == {TEMPLATE}
    assert found in findings[TEMPLATE].found


# The head of a reward model.


def scorer(folder: Path) -> Any:
    return functools.partial(load_scalar_model, name=str(folder), head="pretrained")


def trained(folder: Path, encoder: Encoder, out: Path, weight: float | None) -> Path:
    scalar = load_scalar_model(name=str(folder), head="new")
    with torch.no_grad():
        scalar.head.weight.add_(0.01) if weight is None else scalar.head.weight.fill_(weight)
    return save_model_folder(scalar, encoder, out)


def test_a_trained_head_passes(
    load: Callable[..., Any], examined: Examined, causal_lm_folders: dict[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    folder = trained(causal_lm_folders["llama"], encoder, tmp_path / "reward", None)
    assert examined(load(), reward=scorer(folder))[HEAD].result == "pass"


def test_a_head_that_is_missing_fresh_or_zero(
    load: Callable[..., Any],
    examined: Examined,
    causal_lm_folders: dict[str, Path],
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    base = causal_lm_folders["llama"]
    zero = trained(base, encoder, tmp_path / "zero", 0.0)
    new = load_scalar_model(name=str(base), head="new")
    fresh = save_model_folder(new, encoder, tmp_path / "fresh")
    delattr(new.model.config, NEW_HEAD)  # as folders of earlier versions, which do not tell how it was drawn
    old = save_model_folder(new, encoder, tmp_path / "old")
    cases = {base: "no score head", zero: "all zeros", fresh: "as it was drawn and was never trained", old: "seed 0"}
    for folder, found in cases.items():
        findings = examined(load(), reward=scorer(folder))
        assert failed(findings) == {HEAD}
        assert found in findings[HEAD].found


# Data and memory.


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_are_counted(load: Callable[..., Any], examined: Examined, encoder: Encoder, tmp_path: Path) -> None:
    rows = [{"prompt": "a" * 10, "response": "b" * size} for size in (4, 9, 30)]
    file = write(tmp_path / "rows.jsonl", rows)
    settings: Any = {"encoder": encoder, "train": file, "max_length": 24, "overlong": "keep_start"}
    findings = examined(load(), data=lambda: DemonstrationDataModule(**settings))
    assert findings[DATA].result == "pass"
    assert findings[DATA].found == "3 rows of 15 to 24 tokens (median 20), context 64; overlong rows cut 1 (33.3%)"


def test_rows_over_the_context(load: Callable[..., Any], examined: Examined, encoder: Encoder, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": "a" * size} for size in (10, 60)])
    data = functools.partial(PromptDataModule, encoder=encoder, train=file, iterations=1, rollout_batch_size=2)
    assert examined(load(), data=data, response_tokens=4)[DATA].result == "pass"
    findings = examined(load(), data=data, response_tokens=5)
    assert failed(findings) == {DATA}
    assert "50.0% are too long" in findings[DATA].found
    assert "data.max_prompt_length=59" in findings[DATA].advice


def test_rows_with_a_fault(load: Callable[..., Any], examined: Examined, encoder: Encoder, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}, {"prompt": "c", "answer": "d"}])
    findings = examined(load(), data=lambda: DemonstrationDataModule(encoder=encoder, train=file))
    assert failed(findings) == {DATA}
    assert "line 2" in findings[DATA].found


def plan(needed: float) -> MemoryPlan:
    role = RoleMemory(role="policy", weights=1.0, optimizer=needed)
    return MemoryPlan(stage="sft", roles=(role,), phases={"update": needed}, kept=0.0)


def test_memory_that_is_not_there(load: Callable[..., Any], examined: Examined) -> None:
    findings = examined(load(), plan=lambda: plan(2.0**60))
    assert failed(findings) == {MEMORY}
    assert "GiB are free" in findings[MEMORY].found and "model/lora" in findings[MEMORY].advice
    assert examined(load(), plan=lambda: plan(2.0**20))[MEMORY].result == "pass"


def test_the_plan_of_stages(causal_lm_folders: dict[str, Path]) -> None:
    policy = functools.partial(load_causal_lm, name=str(causal_lm_folders["llama"]))
    stages = {stage: plan_of(policy, stage=stage) for stage in ("sft", "reward", "ppo")}
    assert [[role.role for role in found.roles] for found in stages.values() if found is not None] == [
        ["policy"],
        ["reward"],
        ["policy", "reference", "value", "reward"],
    ]
    assert plan_of(lambda: None) is None
    with pytest.raises(ValueError, match=r"run\.stage='dpo'"):
        plan_of(policy, stage="dpo")
    with pytest.raises(ValueError, match="model/lora=default"):
        plan_of(policy, roles="shared")
    with pytest.raises(ValueError, match=r"run\.roles='share'"):
        plan_of(policy, roles="share")  # type: ignore[arg-type]
    assert dataclasses.is_dataclass(stages["ppo"])
