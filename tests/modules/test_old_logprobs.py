"""Ratios counted from what the engine drew with (module.old_logprobs=engine)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.data import PromptBatch
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import Generation, NativeEngine
from rlhf_lightning.modules import PPOModule

Run = Callable[..., Any]
MakePPO = Callable[..., PPOModule]


class Shifted(NativeEngine):
    """Tells half a nat more than it drew with, or nothing."""

    def __init__(self, told: float | None) -> None:
        super().__init__()
        self.told = told

    def generate(self, model: nn.Module, input_ids: Tensor, lengths: Tensor, **options: Any) -> Generation:
        found = super().generate(model, input_ids, lengths, **options)
        return found._replace(logprobs=None if self.told is None else found.logprobs + self.told)


def test_a_pass_of_the_policy_is_saved(run: Run, make_ppo: MakePPO, prompts: PromptBatch, architecture: str) -> None:
    passes = {}
    for old in ("policy", "engine"):
        module = make_ppo(architecture, old_logprobs=old, learning_rate=0.0, temperature=0.7, kl_coef=0.5)
        module.configure_model()
        passes[old] = 0
        read = module._policy_logprobs.__call__

        def counted(*given: Any, old: str = old, read: Any = read, **options: Any) -> Any:
            passes[old] += not torch.is_grad_enabled()
            return read(*given, **options)

        module._policy_logprobs = counted  # type: ignore[assignment]  # what is called is all that counts
        (output,) = run(module, {"prompts": prompts})
        trajectory, updates = output["trajectory"], output["updates"]
        if old == "policy":
            expected = trajectory
    assert passes["engine"] == 0 < passes["policy"]
    assert torch.equal(trajectory.input_ids, expected.input_ids)
    for name in ("logprobs", "rewards", "advantages"):
        torch.testing.assert_close(getattr(trajectory, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    # The mean of log p over what was sampled estimates minus the entropy.
    torch.testing.assert_close(trajectory.entropy, -trajectory.logprobs)
    assert updates["ratio"].item() == pytest.approx(1.0, abs=1e-4)


def test_the_ratio_is_that_to_what_was_told(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    module = make_ppo(engine=Shifted(0.5), old_logprobs="engine", learning_rate=0.0, check_reference=False)
    (output,) = run(module, {"prompts": prompts})
    assert output["updates"]["ratio"].item() == pytest.approx(torch.tensor(-0.5).exp().item(), abs=1e-4)
    assert "rollout/engine_gap" not in module.trainer.callback_metrics


def test_an_engine_that_is_far_from_the_policy_stops_the_run(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    with pytest.raises(UserError, match=r"differs from the reference by 0\.5.*module\.old_logprobs=policy"):
        run(make_ppo(engine=Shifted(0.5), old_logprobs="engine"), {"prompts": prompts})


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (lambda known: known[:, :1], r"tells log-probabilities of shape \(8, 1\) for responses of shape \(8, \d+\)"),
        (lambda known: known[0], r"of shape \(\d+,\) for responses"),
        (lambda known: known * float("nan"), "the logits of row 0 are no numbers"),
    ],
    ids=["short", "one row", "nan"],
)
def test_numbers_that_are_none_and_other_shapes_are_refused(
    run: Run, make_ppo: MakePPO, prompts: PromptBatch, told: Callable[[Tensor], Tensor], message: str
) -> None:
    class Wrong(NativeEngine):
        def generate(self, *given: Any, **options: Any) -> Generation:
            found = super().generate(*given, **options)
            assert found.logprobs is not None
            return found._replace(logprobs=told(found.logprobs))

    with pytest.raises(UserError, match=message):
        run(make_ppo(engine=Wrong(), old_logprobs="engine", check_reference=False), {"prompts": prompts})


def test_an_engine_that_tells_nothing_is_refused(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    with pytest.raises(UserError, match=r"module\.old_logprobs=engine needs.*set module\.old_logprobs=policy"):
        run(make_ppo(engine=Shifted(None), old_logprobs="engine"), {"prompts": prompts})


def test_other_names_are_refused(make_ppo: MakePPO) -> None:
    with pytest.raises(UserError, match=r"module\.old_logprobs='vllm' is neither 'policy' nor 'engine'"):
        make_ppo(old_logprobs="vllm")


def test_late_responses_keep_what_they_were_drawn_with(run: Run, make_ppo: MakePPO, prompts: PromptBatch) -> None:
    """One step late, the old log-probabilities of the second iteration are those of the first policy."""
    found = []
    for old in ("policy", "engine"):
        module = make_ppo(old_logprobs=old, async_rollouts=True, learning_rate=0.05)
        found.append(run(module, {"prompts": prompts._replace(ahead=prompts)}, {"prompts": prompts})[1])
    expected, mine = found
    torch.testing.assert_close(mine["trajectory"].logprobs, expected["trajectory"].logprobs, rtol=1e-4, atol=1e-4)
    assert mine["updates"]["ratio"].item() == pytest.approx(expected["updates"]["ratio"].item(), abs=1e-3)
    assert abs(mine["updates"]["ratio"].item() - 1) > 1e-3


def test_late_responses_without_what_the_ratio_counts_from_are_sampled_anew(
    run: Run, make_ppo: MakePPO, prompts: PromptBatch
) -> None:
    """A checkpoint of a run with ``engine`` goes on with ``policy``: what was sampled late is not taken for new."""
    module = make_ppo(old_logprobs="engine", async_rollouts=True, learning_rate=0.05)
    saved: list[Any] = []
    sampling = module.async_rollouts.sampling

    def watched(*given: Any) -> Any:
        saved.append(module.async_rollouts.state())
        return sampling(*given)

    module.async_rollouts.sampling = watched  # type: ignore[method-assign]
    ahead = prompts._replace(ahead=prompts)
    run(module, {"prompts": ahead}, {"prompts": ahead}, {"prompts": prompts})
    late = next(state for state in saved if state is not None)
    for old, same in (("engine", True), ("policy", False)):
        module.old_logprobs, module.async_rollouts.saved = old, [late]  # type: ignore[assignment]
        found = module.async_rollouts.responses(module, prompts)
        ids = late["response_ids"]
        assert (found.response_ids.shape == ids.shape and torch.equal(found.response_ids, ids)) == same
