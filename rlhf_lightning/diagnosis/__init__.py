"""Checks of a user's own model before any training."""

from rlhf_lightning.diagnosis.diagnose import diagnose
from rlhf_lightning.diagnosis.finding import Finding
from rlhf_lightning.diagnosis.plan import plan_of, run_of

__all__ = ["Finding", "diagnose", "plan_of", "run_of"]
