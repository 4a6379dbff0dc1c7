"""Who wins, what it cost and whether the numbers can be trusted: win rates, alignment tax, reward model, report."""

from rlhf_lightning.evaluation.bradley_terry import Rating, bradley_terry, rate_models
from rlhf_lightning.evaluation.card import card_drift, evaluation_card
from rlhf_lightning.evaluation.chat_client import ChatClient
from rlhf_lightning.evaluation.chat_judge import ChatJudge
from rlhf_lightning.evaluation.claims import Claim, check_claims
from rlhf_lightning.evaluation.claims_report import claims_plot, claims_table, write_claims
from rlhf_lightning.evaluation.compare import evaluate_models
from rlhf_lightning.evaluation.divergence import kl_from, sequence_logprobs
from rlhf_lightning.evaluation.evidence import Evidence
from rlhf_lightning.evaluation.instructions import TABLE_3, labeling_instructions
from rlhf_lightning.evaluation.judges import Judge, ScoreJudge
from rlhf_lightning.evaluation.label_agreement import label_agreement
from rlhf_lightning.evaluation.labeler_folds import Fold, cross_validate_labelers, labeler_folds
from rlhf_lightning.evaluation.labeler_judge import FunctionJudge, LabelerJudge
from rlhf_lightning.evaluation.language_modelling import block_losses, mean_loss, text_batches, text_loss
from rlhf_lightning.evaluation.policy import evaluate_policy
from rlhf_lightning.evaluation.preference import (
    Verdicts,
    ask_all_pairs,
    judge_in_random_order,
    summarize_preferences,
    verdicts_of_scores,
)
from rlhf_lightning.evaluation.report import write_report
from rlhf_lightning.evaluation.reward_model import (
    calibration_table,
    evaluate_reward_model,
    pair_accuracy,
    pair_agreement,
)
from rlhf_lightning.evaluation.sampling import Samples, sample_responses
from rlhf_lightning.evaluation.several_judges import ask_judges
from rlhf_lightning.evaluation.table import print_table
from rlhf_lightning.evaluation.win_rate import WinRate, bootstrap_interval, share_interval, win_rate

__all__ = [
    "TABLE_3",
    "ChatClient",
    "ChatJudge",
    "Claim",
    "Evidence",
    "Fold",
    "FunctionJudge",
    "Judge",
    "LabelerJudge",
    "Rating",
    "Samples",
    "ScoreJudge",
    "Verdicts",
    "WinRate",
    "ask_all_pairs",
    "ask_judges",
    "block_losses",
    "bootstrap_interval",
    "bradley_terry",
    "calibration_table",
    "card_drift",
    "check_claims",
    "claims_plot",
    "claims_table",
    "cross_validate_labelers",
    "evaluate_models",
    "evaluate_policy",
    "evaluate_reward_model",
    "evaluation_card",
    "judge_in_random_order",
    "kl_from",
    "label_agreement",
    "labeler_folds",
    "labeling_instructions",
    "mean_loss",
    "pair_accuracy",
    "pair_agreement",
    "print_table",
    "rate_models",
    "sample_responses",
    "sequence_logprobs",
    "share_interval",
    "summarize_preferences",
    "text_batches",
    "text_loss",
    "verdicts_of_scores",
    "win_rate",
    "write_claims",
    "write_report",
]
