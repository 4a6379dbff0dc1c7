"""The paper's automatic evaluations: prompts, answers, figures and the alignment tax."""

from rlhf_lightning.evaluation.benchmarks.answering import cut_at_newline
from rlhf_lightning.evaluation.benchmarks.bias import crows_pairs, winogender
from rlhf_lightning.evaluation.benchmarks.harness import harness
from rlhf_lightning.evaluation.benchmarks.multiple_choice import hellaswag, rte, sst
from rlhf_lightning.evaluation.benchmarks.reading import drop, quac, squadv2
from rlhf_lightning.evaluation.benchmarks.real_toxicity import AltProfanityCheck, ToxicityScorer, real_toxicity
from rlhf_lightning.evaluation.benchmarks.report import write_benchmark_report
from rlhf_lightning.evaluation.benchmarks.run import evaluate_benchmarks
from rlhf_lightning.evaluation.benchmarks.samples import read_samples, write_samples
from rlhf_lightning.evaluation.benchmarks.task import Choice, Interval, Measured, Question, Task
from rlhf_lightning.evaluation.benchmarks.tax import alignment_tax
from rlhf_lightning.evaluation.benchmarks.truthful_qa import ReferenceJudge, TruthJudge, truthful_qa
from rlhf_lightning.evaluation.benchmarks.winograd import wsc
from rlhf_lightning.evaluation.benchmarks.writing_tasks import cnn_dm, tldr, wmt15_fr_en

__all__ = [
    "AltProfanityCheck",
    "Choice",
    "Interval",
    "Measured",
    "Question",
    "ReferenceJudge",
    "Task",
    "ToxicityScorer",
    "TruthJudge",
    "alignment_tax",
    "cnn_dm",
    "crows_pairs",
    "cut_at_newline",
    "drop",
    "evaluate_benchmarks",
    "harness",
    "hellaswag",
    "quac",
    "read_samples",
    "real_toxicity",
    "rte",
    "squadv2",
    "sst",
    "tldr",
    "truthful_qa",
    "winogender",
    "wmt15_fr_en",
    "write_benchmark_report",
    "write_samples",
    "wsc",
]
