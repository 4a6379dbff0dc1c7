"""Peak resident memory of training, beside what the memory plan estimates: a PPO iteration with four full models and
with adapters on one base, plain and quantised; supervised fine-tuning; a reward model.

    python tests/benchmarks/memory.py [--architecture gpt2] [--only "separate, full"] [--model FOLDER]

Without ``--model`` a Llama or a GPT-2 with random weights is written to a temporary folder. Each set-up is a process of
its own, whose peak is the largest resident set since its start (Linux). The estimate is of what is there beyond what
the process held before it loaded a model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SETUPS = {
    "separate, full": {"stage": "ppo", "roles": "separate", "lora": False, "kind": None},
    "separate, LoRA": {"stage": "ppo", "roles": "separate", "lora": True, "kind": None},
    "shared, LoRA": {"stage": "ppo", "roles": "shared", "lora": True, "kind": None},
    "shared, LoRA, int8": {"stage": "ppo", "roles": "shared", "lora": True, "kind": "int8"},
    "shared, LoRA, nf4": {"stage": "ppo", "roles": "shared", "lora": True, "kind": "nf4"},
    "SFT, full": {"stage": "sft", "lora": False, "kind": None},
    "SFT, LoRA": {"stage": "sft", "lora": True, "kind": None},
    "reward, full": {"stage": "reward", "lora": False, "kind": None},
}
PPO = [setup for setup, options in SETUPS.items() if options["stage"] == "ppo"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a language model; by default one is made")
    for name, default in (("hidden", 768), ("layers", 12), ("vocabulary", 32_000), ("episodes", 8), ("tokens", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--text", type=int, default=0, help="tokens of a block of pretraining text; 0 without")
    parser.add_argument("--architecture", choices=["llama", "gpt2"], default="llama")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing")
    parser.add_argument("--only", choices=SETUPS, help="one set-up; its figures also as a line of JSON")
    parser.add_argument("--setup", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.setup:
        print(json.dumps(_measure(SETUPS[options.setup], Path(options.work), options)))
        return
    with tempfile.TemporaryDirectory() as work:
        arguments = [sys.executable, __file__, *sys.argv[1:], "--work", work]
        _prepare(Path(work), options)
        found = {}
        for setup in [options.only] if options.only else SETUPS:
            print(f"{setup} ...", file=sys.stderr)
            done = subprocess.run([*arguments, "--setup", setup], stdout=subprocess.PIPE, text=True, check=True)
            found[setup] = json.loads(done.stdout.splitlines()[-1])
        _print(found)
        if options.only:
            print(json.dumps(found[options.only]))


def _prepare(work: Path, options: Any) -> None:
    """The language model and, from it, a reward model in full and, for each way to store the base, as an adapter."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from rlhf_lightning.data import Encoder
    from rlhf_lightning.models import Lora, Quantization, load_scalar_model, save_model_folder

    width, layers = options.hidden, options.layers
    torch.manual_seed(0)
    if options.model is None:
        if options.architecture == "gpt2":
            made: Any = GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=layers, n_head=width // 64))
        else:
            config = LlamaConfig(
                vocab_size=options.vocabulary,
                hidden_size=width,
                intermediate_size=width * 4,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                tie_word_embeddings=True,
            )
            made = LlamaForCausalLM(config)
        made.save_pretrained(work / "base")
        _tokenizer().save_pretrained(work / "base")
    else:
        (work / "base").symlink_to(Path(options.model).resolve())
    base = str(work / "base")
    encoder = Encoder(AutoTokenizer.from_pretrained(base))
    if options.only and SETUPS[options.only]["stage"] != "ppo":
        return
    for kind in [SETUPS[options.only]["kind"]] if options.only else (None, "int8", "nf4"):
        model = load_scalar_model(
            name=base, head="new", lora=Lora(), quantization=Quantization(kind=kind) if kind else None
        )
        model.head.weight.data.mul_(1.25)  # a head that is as it was drawn is refused
        save_model_folder(model, encoder, work / f"reward-{kind}")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
    letters = [*special.values(), *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ"]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _measure(setup: dict[str, Any], work: Path, options: Any) -> dict[str, float]:
    """Resident memory in GiB: before a model is loaded, and at most until two iterations or steps are done; and the
    plan's estimate of the difference."""
    import lightning as L

    from rlhf_lightning.modules.run_plan import memory_plan

    data = _data(setup["stage"], work, options)
    data.setup()
    idle = _peak()
    module = _module(setup, data.encoder, work, options)
    plan = memory_plan(module, data)
    assert plan is not None
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, **quiet)
    trainer.fit(module, datamodule=data)
    return {"idle": idle, "peak": _peak(), "tensors": plan.peak / 2**30, "estimate": plan.resident / 2**30}


def _data(stage: str, work: Path, options: Any) -> Any:
    """Two batches of rows that are alike."""
    from rlhf_lightning.data import ComparisonDataModule, DemonstrationDataModule, Encoder, PromptDataModule

    encoder = Encoder.from_pretrained(str(work / "base"))
    answer = "a" * (options.tokens - 1)
    rows: dict[str, dict[str, Any]] = {
        "ppo": {"prompt": "tell me more"},
        "sft": {"prompt": "tell me more", "response": answer},
        "reward": {"prompt": "tell me more", "responses": [answer, answer[1:]], "ranks": [1, 2]},
    }
    file, text = work / f"{stage}.jsonl", work / "text.txt"
    file.write_text(f"{json.dumps(rows[stage])}\n" * 2 * options.episodes, encoding="utf-8")
    text.write_text("a story of words. " * 10_000, encoding="utf-8")
    if stage == "sft":
        return DemonstrationDataModule(encoder=encoder, train=str(file), batch_size=options.episodes)
    if stage == "reward":
        return ComparisonDataModule(encoder=encoder, train=str(file), batch_size=options.episodes)
    return PromptDataModule(
        encoder=encoder,
        train=str(file),
        text=str(text) if options.text else None,
        text_block=options.text or 128,
        iterations=2,
        rollout_batch_size=options.episodes,
        ptx_ratio=1,
    )


def _module(setup: dict[str, Any], encoder: Any, work: Path, options: Any) -> Any:
    """The module of a set-up."""
    import functools

    from rlhf_lightning.models import Lora, Quantization, load_causal_lm, load_scalar_model, trained_reward
    from rlhf_lightning.modules import PPOModule, RewardModule, SFTModule

    common: dict[str, Any] = {
        "lora": Lora() if setup["lora"] else None,
        "quantization": Quantization(kind=setup["kind"]) if setup["kind"] else None,
        "activation_checkpointing": options.checkpointing,
    }
    base, reward = str(work / "base"), str(work / f"reward-{setup['kind']}")
    policy: Any = functools.partial(load_causal_lm, name=base, **common)
    if setup["stage"] == "sft":
        return SFTModule(policy=policy, micro_batch_size=2)
    if setup["stage"] == "reward":
        model: Any = functools.partial(load_scalar_model, name=base, head="new", **common)
        return RewardModule(reward_model=model, micro_batch_size=1)
    return PPOModule(
        policy=policy,
        value=functools.partial(load_scalar_model, name=reward, **common),
        reward=trained_reward(name=reward, roles=setup["roles"]),
        roles=setup["roles"],
        encoder=encoder,
        max_new_tokens=options.tokens,
        minibatch_size=options.episodes,
        micro_batch_size=2,
    )


def _peak() -> float:
    """Largest resident set of this program in GB. Not ru_maxrss, which begins with that of the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20


def _print(found: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = (
        "before loading",
        "peak",
        "beyond",
        "tensors",
        "estimate",
        "estimate of measured",
        "peak of separate, full",
    )
    table = Table("set-up", *columns, title="Peak resident memory, GiB")
    full = found.get("separate, full", {}).get("peak")
    for setup, values in found.items():
        beyond = values["peak"] - values["idle"]
        shares = (values["estimate"] / beyond, values["peak"] / full if full and setup in PPO else None)
        cells = (values["idle"], values["peak"], beyond, values["tensors"], values["estimate"], *shares)
        table.add_row(setup, *("" if cell is None else f"{cell:.2f}" for cell in cells))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
