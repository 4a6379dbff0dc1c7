"""The three stages as LightningModules."""

from rlhf_lightning.modules.muon import Muon
from rlhf_lightning.modules.ppo import PPOModule
from rlhf_lightning.modules.record import run_record
from rlhf_lightning.modules.reward import RewardModule
from rlhf_lightning.modules.sft import SFTModule
from rlhf_lightning.modules.trajectory import Rollout, Trajectory

__all__ = ["Muon", "PPOModule", "RewardModule", "Rollout", "SFTModule", "Trajectory", "run_record"]
