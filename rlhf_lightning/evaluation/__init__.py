"""Who wins, what it cost and whether the numbers can be trusted: win rates, alignment tax, reward model, report."""

from rlhf_lightning.evaluation.compare import evaluate_models
from rlhf_lightning.evaluation.divergence import kl_from, sequence_logprobs
from rlhf_lightning.evaluation.judges import Judge, ScoreJudge
from rlhf_lightning.evaluation.language_modelling import mean_loss, text_batches, text_loss
from rlhf_lightning.evaluation.report import write_report
from rlhf_lightning.evaluation.reward_model import (
    calibration_table,
    evaluate_reward_model,
    pair_accuracy,
    pair_agreement,
)
from rlhf_lightning.evaluation.sampling import Samples, sample_responses
from rlhf_lightning.evaluation.table import print_table
from rlhf_lightning.evaluation.win_rate import WinRate, bootstrap_interval, win_rate

__all__ = [
    "Judge",
    "Samples",
    "ScoreJudge",
    "WinRate",
    "bootstrap_interval",
    "calibration_table",
    "evaluate_models",
    "evaluate_reward_model",
    "kl_from",
    "mean_loss",
    "pair_accuracy",
    "pair_agreement",
    "print_table",
    "sample_responses",
    "sequence_logprobs",
    "text_batches",
    "text_loss",
    "win_rate",
    "write_report",
]
