"""Peak resident memory of a PPO iteration: four full models against adapters on one base, plain and quantised.

    python tests/benchmarks/memory.py [--hidden 768 --layers 12 --vocabulary 32000] [--model FOLDER]

Without ``--model`` a Llama with random weights is written to a temporary folder. Each set-up is a process of its own,
whose peak is the largest resident set since its start (Linux); what it holds before it loads a model is printed, too.
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
    "separate, full": {"roles": "separate", "lora": False, "kind": None},
    "separate, LoRA": {"roles": "separate", "lora": True, "kind": None},
    "shared, LoRA": {"roles": "shared", "lora": True, "kind": None},
    "shared, LoRA, int8": {"roles": "shared", "lora": True, "kind": "int8"},
    "shared, LoRA, nf4": {"roles": "shared", "lora": True, "kind": "nf4"},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a language model; by default one is made")
    for name, default in (("hidden", 768), ("layers", 12), ("vocabulary", 32_000), ("episodes", 8), ("tokens", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
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
        for setup in SETUPS:
            print(f"{setup} ...", file=sys.stderr)
            done = subprocess.run([*arguments, "--setup", setup], stdout=subprocess.PIPE, text=True, check=True)
            found[setup] = json.loads(done.stdout.splitlines()[-1])
        _print(found)


def _prepare(work: Path, options: Any) -> None:
    """The language model and, from it, a reward model in full and, for each way to store the base, as an adapter."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from rlhf_lightning.data import Encoder
    from rlhf_lightning.models import Lora, Quantization, load_scalar_model, save_model_folder

    if options.model is None:
        width = options.hidden
        config = LlamaConfig(
            vocab_size=options.vocabulary,
            hidden_size=width,
            intermediate_size=width * 4,
            num_hidden_layers=options.layers,
            num_attention_heads=width // 64,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(work / "base")
        _tokenizer().save_pretrained(work / "base")
    else:
        (work / "base").symlink_to(Path(options.model).resolve())
    base = str(work / "base")
    encoder = Encoder(AutoTokenizer.from_pretrained(base))
    for kind in (None, "int8", "nf4"):
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
    """Resident memory in GB: before a model is loaded, and at most until two iterations are done."""
    import functools

    import lightning as L

    from rlhf_lightning.data import Encoder, PromptDataModule
    from rlhf_lightning.models import Lora, Quantization, load_causal_lm, load_scalar_model, trained_reward
    from rlhf_lightning.modules import PPOModule

    idle = _peak()
    common: dict[str, Any] = {
        "lora": Lora() if setup["lora"] else None,
        "quantization": Quantization(kind=setup["kind"]) if setup["kind"] else None,
    }
    base, reward = str(work / "base"), str(work / f"reward-{setup['kind']}")
    prompts = work / "prompts.jsonl"
    prompts.write_text('{"prompt": "tell me more"}\n' * options.episodes)
    encoder = Encoder.from_pretrained(base)
    module = PPOModule(
        policy=functools.partial(load_causal_lm, name=base, **common),
        value=functools.partial(load_scalar_model, name=reward, **common),
        reward=trained_reward(name=reward, roles=setup["roles"]),
        roles=setup["roles"],
        encoder=encoder,
        max_new_tokens=options.tokens,
        minibatch_size=options.episodes,
        micro_batch_size=2,
    )
    data = PromptDataModule(
        encoder=encoder, train=str(prompts), iterations=2, rollout_batch_size=options.episodes, ptx_ratio=1
    )
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, **quiet)
    trainer.fit(module, datamodule=data)
    return {"idle": idle, "peak": _peak()}


def _peak() -> float:
    """Largest resident set of this program in GB. Not ru_maxrss, which begins with that of the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20


def _print(found: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("roles", "before loading, GB", "peak, GB", "of separate, full", title="Peak resident memory, PPO")
    full = found["separate, full"]["peak"]
    for setup, values in found.items():
        table.add_row(setup, f"{values['idle']:.2f}", f"{values['peak']:.2f}", f"{values['peak'] / full:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
