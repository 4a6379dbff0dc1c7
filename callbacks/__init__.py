"""Lightning callbacks, one idea each. Import them as ``rlhf_lightning.callbacks``."""

from rlhf_lightning.callbacks.adaptive_kl import AdaptiveKLController
from rlhf_lightning.callbacks.collapse_alarm import CollapseAlarm
from rlhf_lightning.callbacks.compiled_passes import CompiledPasses
from rlhf_lightning.callbacks.data_card import DataCard
from rlhf_lightning.callbacks.huggingface_export import HuggingFaceExport
from rlhf_lightning.callbacks.iteration_checkpoint import IterationCheckpoint
from rlhf_lightning.callbacks.kl_early_stop import KLEarlyStop
from rlhf_lightning.callbacks.optuna_pruning import OptunaPruning
from rlhf_lightning.callbacks.policy_ema import PolicyEMA
from rlhf_lightning.callbacks.policy_evaluation import PolicyEvaluation
from rlhf_lightning.callbacks.progress_bar import TrainingProgressBar
from rlhf_lightning.callbacks.rollout_metrics import RolloutMetrics, rollout_metrics
from rlhf_lightning.callbacks.run_plan import RunPlan
from rlhf_lightning.callbacks.sample_table import SampleTable
from rlhf_lightning.modules.checkpoints import newest_checkpoint

__all__ = [
    "AdaptiveKLController",
    "CollapseAlarm",
    "CompiledPasses",
    "DataCard",
    "HuggingFaceExport",
    "IterationCheckpoint",
    "KLEarlyStop",
    "OptunaPruning",
    "PolicyEMA",
    "PolicyEvaluation",
    "RolloutMetrics",
    "RunPlan",
    "SampleTable",
    "TrainingProgressBar",
    "newest_checkpoint",
    "rollout_metrics",
]
