"""The public names: documented, and typed as a user's own ``mypy --strict`` sees them."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_lightning
from rlhf_lightning import callbacks, functional

ROOT = Path(__file__).resolve().parents[1]
# What the guide's examples do not use, used as a user would.
MORE = '''
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import rlhf_lightning as R
from rlhf_lightning import callbacks as C
from rlhf_lightning import functional as F


def policy() -> nn.Module:
    quantization = R.Quantization(kind="int8")
    return R.load_causal_lm(name="base", lora=R.Lora(rank=4), quantization=quantization)


def value() -> R.ScalarModel:
    return R.load_scalar_model(name="base", head="new")


class Scripted:
    """An engine of one's own."""

    def check(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Linear):
            raise R.UserError("takes a linear layer")

    def generate(
        self,
        model: nn.Module,
        input_ids: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int,
        eos_token_id: int,
        pad_token_id: int,
        temperature: float = 1.0,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> R.Generation:
        ids = torch.full((len(lengths), 1), eos_token_id)
        return R.Generation(ids, torch.ones_like(lengths), torch.ones_like(lengths, dtype=torch.bool))


class MyModel(nn.Module):
    def forward(self, input_ids: Tensor) -> Tensor:
        return torch.zeros(*input_ids.shape, 5)

    def sample(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int,
        eos_token_id: int,
        temperature: float,
        greedy: bool,
        generator: torch.Generator | None,
    ) -> Tensor:
        return torch.full((len(lengths), 1), eos_token_id)


own: R.Policy = MyModel()
engine: R.RolloutEngine = Scripted()
native: R.RolloutEngine = R.NativeEngine(batch_size=4)


class Mine(R.PPOModule):
    def rollout(self, prompts: R.PromptBatch, generator: torch.Generator | None) -> R.Generation:
        return super().rollout(prompts, generator)

    def score(self, prompts: R.PromptBatch, generation: R.Generation) -> Tensor:
        return super().score(prompts, generation) + generation.finished.float()

    def evaluate(
        self, prompts: R.PromptBatch, generation: R.Generation, scores: Tensor
    ) -> tuple[R.Rollout, R.Trajectory]:
        rollout, trajectory = super().evaluate(prompts, generation, scores)
        return rollout, trajectory._replace(rewards=trajectory.rewards * 2)

    def value_loss(self, part: R.Trajectory, count: Tensor) -> Tensor:
        return super().value_loss(part, count) * 2

    def ptx_loss(self, text: R.TokenBatch, count: Tensor) -> Tensor:
        return super().ptx_loss(text, count)

    def should_stop_updates(self, approx_kl: Tensor) -> bool:
        return bool(approx_kl > 1)


class Scored(R.RewardModule):
    def score(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        return super().score(input_ids, lengths).tanh()


def pairs(batch: R.ComparisonBatch) -> int:
    return len(batch.better)


def first(prompts: list[R.Prompt]) -> R.Prompt:
    return prompts[0]


encoder = R.Encoder.from_pretrained("base")
both = R.WeightedSum(rewards=[R.RewardModelScorer(name="reward"), lambda p, r: [0.0 for _ in r]], weights=[1.0, 0.5])
adapters = R.SharedReward(name="reward")
shared = R.PPOModule(policy=policy, reward=adapters, encoder=encoder, roles="shared", engine=engine)
ppo = Mine(policy=policy, value=value, reward=both, encoder=encoder, optimizer=partial(R.Muon, momentum=0.9))
prompts = R.PromptDataModule(
    encoder=encoder, train="prompts.jsonl", iterations=1, hygiene=R.PromptHygiene(max_per_user=5)
)
text = R.TextDataModule(encoder=encoder, train="corpus.jsonl", block_size=8, batch_size=4)
strategy = R.fsdp2_strategy(devices=2)
logprobs, entropy = R.TokenLogprobs(MyModel())(torch.zeros(1, 3, dtype=torch.long), torch.tensor([[False, True, True]]))
assert_type(logprobs, Tensor)
assert_type(F.masked_mean(logprobs, logprobs > 0), Tensor)
watching = [C.AdaptiveKLController(target=6.0, horizon=1000), C.IterationCheckpoint(folder="checkpoints")]
try:
    R.SFTModule(policy=policy)
except R.CheckpointError as error:
    print(error)
'''


@pytest.mark.parametrize("module", [rlhf_lightning, functional, callbacks])
def test_every_public_name_is_documented(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert names == sorted(names, key=str) or module is not rlhf_lightning
    for name in names:
        found = getattr(module, name)
        documented = inspect.isfunction(found) or inspect.isclass(found) or inspect.ismodule(found)
        assert not documented or (inspect.getdoc(found) and (found.__doc__ or "").strip()), name


def test_the_guide_names_public_names_alone() -> None:
    guide = (ROOT / "GUIDE.md").read_text()
    for imported in re.findall(r"^from rlhf_lightning import (?:\(([^)]*)\)|(.*))$", guide, flags=re.MULTILINE):
        for name in re.split(r"[,\s]+", "".join(imported).split(" as ")[0]):
            assert not name or name in rlhf_lightning.__all__, name
    assert set(re.findall(r"^from (rlhf_lightning\S*) import", guide, flags=re.MULTILINE)) == {
        "rlhf_lightning",
        "rlhf_lightning.callbacks",
    }


@pytest.mark.slow
def test_a_users_file_passes_mypy_strict(tmp_path: Path) -> None:
    guide = (ROOT / "GUIDE.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    used = set(re.findall(r"\w+", MORE + "".join(examples)))
    assert set(rlhf_lightning.__all__) <= used
    # The package as a wheel has it: an editable one keeps callbacks/ where mypy does not look.
    site = tmp_path / "site" / "rlhf_lightning"
    site.mkdir(parents=True)
    for path in (*(ROOT / "rlhf_lightning").iterdir(), ROOT / "callbacks"):
        (site / path.name).symlink_to(path)
    project = tmp_path / "project"
    project.mkdir()
    files = []
    for number, text in enumerate([*examples, MORE]):
        files.append(f"file_{number}.py")
        (project / files[-1]).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *files],
        cwd=project,
        env=os.environ | {"MYPYPATH": str(site.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
