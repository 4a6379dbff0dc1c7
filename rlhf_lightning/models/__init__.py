"""Everything that knows transformers: loading, forward passes, generation, scoring, export."""

from rlhf_lightning.models.adapted import base_of_adapter, load_language_model
from rlhf_lightning.models.architecture import check_causal_lm
from rlhf_lightning.models.card import RunRecord, card_data, card_section
from rlhf_lightning.models.compiler import backbones, check_compiler, compile_passes
from rlhf_lightning.models.context import context_length
from rlhf_lightning.models.cpu_matmul import choose_cpu_matmul
from rlhf_lightning.models.dtypes import torch_dtype
from rlhf_lightning.models.eight_bit import adamw8bit
from rlhf_lightning.models.engines import ContinuousEngine, NativeEngine, VllmEngine, generate
from rlhf_lightning.models.export import Exported, export_model, save_model_folder
from rlhf_lightning.models.fidelity import outputs
from rlhf_lightning.models.fingerprints import (
    base_fingerprint,
    content_fingerprint,
    keep_base_fingerprints,
    weights_fingerprint,
)
from rlhf_lightning.models.forward import TokenLogprobs, hidden_states
from rlhf_lightning.models.generation import Generation, RolloutEngine, check_numbers
from rlhf_lightning.models.heads import ScalarModel
from rlhf_lightning.models.loading import load_causal_lm, load_scalar_model
from rlhf_lightning.models.lora import ADAPTER, Lora, adapter_active, adapter_modules, add_lora, has_adapters
from rlhf_lightning.models.modes import generation_mode
from rlhf_lightning.models.packing import PackedStates
from rlhf_lightning.models.padding_free import PaddingFreeLogprobs, PaddingFreeValues
from rlhf_lightning.models.parameter_kinds import trained_by_kind
from rlhf_lightning.models.policy import Policy, check_own, is_own
from rlhf_lightning.models.prompt_trees import PromptTreeStates
from rlhf_lightning.models.quantization import Quantization, computes_exactly, is_quantized
from rlhf_lightning.models.roles import AdaptedScalar, SharedReward, trained_reward
from rlhf_lightning.models.sampling_settings import ignored_sampling_settings, warn_of_ignored_sampling
from rlhf_lightning.models.scoring import RewardModelScorer, WeightedSum, score_texts
from rlhf_lightning.models.shapes import keep_compiled_products
from rlhf_lightning.models.sharding import any_rank, is_sharded, shard, sharded_like, through, whole, whole_state
from rlhf_lightning.models.size import adapter_size, measure, model_size, size_of_factory
from rlhf_lightning.models.skeletons import from_first, loaded_by_first, reward_of_first
from rlhf_lightning.models.training import as_factory, trainable
from rlhf_lightning.models.vocabulary import check_vocabulary, embedding_rows

__all__ = [
    "ADAPTER",
    "AdaptedScalar",
    "ContinuousEngine",
    "Exported",
    "Generation",
    "Lora",
    "NativeEngine",
    "PackedStates",
    "PaddingFreeLogprobs",
    "PaddingFreeValues",
    "Policy",
    "PromptTreeStates",
    "Quantization",
    "RewardModelScorer",
    "RolloutEngine",
    "RunRecord",
    "ScalarModel",
    "SharedReward",
    "TokenLogprobs",
    "VllmEngine",
    "WeightedSum",
    "adamw8bit",
    "adapter_active",
    "adapter_modules",
    "adapter_size",
    "add_lora",
    "any_rank",
    "as_factory",
    "backbones",
    "base_fingerprint",
    "base_of_adapter",
    "card_data",
    "card_section",
    "check_causal_lm",
    "check_compiler",
    "check_numbers",
    "check_own",
    "check_vocabulary",
    "choose_cpu_matmul",
    "compile_passes",
    "computes_exactly",
    "content_fingerprint",
    "context_length",
    "embedding_rows",
    "export_model",
    "from_first",
    "generate",
    "generation_mode",
    "has_adapters",
    "hidden_states",
    "ignored_sampling_settings",
    "is_own",
    "is_quantized",
    "is_sharded",
    "keep_base_fingerprints",
    "keep_compiled_products",
    "load_causal_lm",
    "load_language_model",
    "load_scalar_model",
    "loaded_by_first",
    "measure",
    "model_size",
    "outputs",
    "reward_of_first",
    "save_model_folder",
    "score_texts",
    "shard",
    "sharded_like",
    "size_of_factory",
    "through",
    "torch_dtype",
    "trainable",
    "trained_by_kind",
    "trained_reward",
    "warn_of_ignored_sampling",
    "weights_fingerprint",
    "whole",
    "whole_state",
]
