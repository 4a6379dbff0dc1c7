from __future__ import annotations

from rlhf_lightning.evaluation.learning_curves import learning_curves

STEPS = [float(step) for step in range(30)]
CURVES = {
    "sft": {"train/loss": (STEPS, [2.0] * 30), "val/loss": ([10.0, 20.0], [2.5, 2.0])},
    "reward": {"val/accuracy": ([10.0], [0.7]), "train/loss": (STEPS, STEPS)},
    "ppo": {"rollout/score": (STEPS, STEPS), "rollout/kl": (STEPS, STEPS)},
    "ppo_ptx": {"rollout/score": (STEPS, STEPS), "train/ptx_loss": (STEPS, STEPS)},
}


def test_a_panel_for_each_stage_and_one_for_each_measure_of_ppo() -> None:
    drawing = learning_curves(CURVES)
    assert drawing is not None
    shown = [ax for ax in drawing.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == [
        "SFT",
        "Reward model",
        "PPO: proxy reward of the rollouts",
        "PPO: KL from the reference",
    ]
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in shown]
    assert legends == [["training", "held out"], ["held out"], ["PPO", "PPO-ptx"], ["PPO"]]
    assert [ax.get_xlabel() for ax in shown] == ["optimizer step", "optimizer step", "iteration", "iteration"]


def test_training_is_drawn_raw_and_smoothed_and_validation_as_it_is() -> None:
    drawing = learning_curves({"sft": {**CURVES["sft"], "val/loss": (STEPS, STEPS)}})
    assert drawing is not None
    raw, smooth, held_out = drawing.axes[0].get_lines()
    assert list(raw.get_ydata()) == list(smooth.get_ydata()) == [2.0] * 30
    assert list(held_out.get_ydata()) == STEPS


def test_without_curves_there_is_no_figure() -> None:
    assert learning_curves({}) is None
    assert learning_curves({"sft": {"lr": (STEPS, STEPS)}}) is None
