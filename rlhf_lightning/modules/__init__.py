"""The three stages as LightningModules."""

from rlhf_lightning.modules.capabilities import check_capabilities
from rlhf_lightning.modules.fsdp2 import fsdp2_strategy
from rlhf_lightning.modules.muon import Muon
from rlhf_lightning.modules.ppo import PPOModule
from rlhf_lightning.modules.record import run_record
from rlhf_lightning.modules.reward import RewardModule
from rlhf_lightning.modules.sft import SFTModule
from rlhf_lightning.modules.trainer import make_trainer
from rlhf_lightning.modules.trajectory import Rollout, Trajectory
from rlhf_lightning.modules.world import World

__all__ = [
    "Muon",
    "PPOModule",
    "RewardModule",
    "Rollout",
    "SFTModule",
    "Trajectory",
    "World",
    "check_capabilities",
    "fsdp2_strategy",
    "make_trainer",
    "run_record",
]
