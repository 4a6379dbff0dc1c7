from __future__ import annotations

import torch

from rlhf_lightning.data import PromptBatch
from rlhf_lightning.models import Generation
from rlhf_lightning.modules.trajectory import Trajectory, response_mask, response_targets, scatter

PROMPTS = PromptBatch(torch.tensor([[11, 12, 13], [21, 9, 9]]), torch.tensor([3, 1]), ["a", "b"])
GENERATION = Generation(
    torch.tensor([[14, 9, 9, 9], [22, 23, 24, 25]]), torch.tensor([1, 4]), torch.tensor([True, False])
)


def test_prompt_and_response_stand_in_one_right_padded_row() -> None:
    trajectory = Trajectory.begin(PROMPTS, GENERATION, 9)
    assert trajectory.input_ids.tolist() == [[11, 12, 13, 14, 9], [21, 22, 23, 24, 25]]
    assert trajectory.lengths.tolist() == [4, 5]
    assert trajectory.mask.tolist() == [[True, False, False, False], [True] * 4]
    assert all(field.tolist() == [[0.0] * 4] * 2 for field in trajectory[4:])


def test_both_layouts_hold_the_tokens_in_the_same_order() -> None:
    trajectory = Trajectory.begin(PROMPTS, GENERATION, 9)
    targets = response_targets(trajectory.prompt_lengths, trajectory.response_lengths, 5)
    tokens = response_mask(trajectory.response_lengths, 4)
    assert trajectory.input_ids[targets].tolist() == GENERATION.response_ids[tokens].tolist() == [14, 22, 23, 24, 25]


def test_scatter_is_the_inverse_of_masking_and_differentiable() -> None:
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    scattered = scatter(values, torch.tensor([[True, False], [True, True]]))
    assert scattered.tolist() == [[1.0, 0.0], [2.0, 3.0]]
    (scattered * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 100.0, 1000.0]


def test_rows_are_trimmed_to_the_longest_of_them() -> None:
    trajectory = Trajectory.begin(PROMPTS, GENERATION, 9)
    trajectory = trajectory._replace(rewards=torch.tensor([[1.0, 0, 0, 0], [2.0, 3, 4, 5]]))
    part = trajectory.rows(torch.tensor([0]))
    assert isinstance(part, Trajectory)
    assert part.input_ids.tolist() == [[11, 12, 13, 14]]
    assert part.mask.tolist() == [[True]]
    assert part.rewards.tolist() == [[1.0]]
    swapped = trajectory.rows(torch.tensor([1, 0]))
    assert swapped.rewards.tolist() == [[2.0, 3, 4, 5], [1.0, 0, 0, 0]]
    assert swapped.prompt_lengths.tolist() == [1, 3]
