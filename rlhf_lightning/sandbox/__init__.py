"""The embedded closed world: plain-English instructions whose right answers are known.

``prepare_sandbox`` writes its files, ``SimulatedLabelers`` ranks responses, ``SandboxJudge`` evaluates them.
"""

from rlhf_lightning.sandbox.judge import SandboxJudge
from rlhf_lightning.sandbox.labelers import SimulatedLabelers
from rlhf_lightning.sandbox.prepare import prepare_sandbox

__all__ = ["SandboxJudge", "SimulatedLabelers", "prepare_sandbox"]
