"""No tensor of a PPO iteration grows with the vocabulary beyond the logits of one micro-batch's responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lightning.data import PromptBatch, TokenBatch
from rlhf_lightning.modules import PPOModule

VOCABULARY, ROWS, STEPS = 20_000, 4, 8


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operation makes, and which operation that is. Views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found = (0, "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                # What oneDNN has packed shows no storage.
                size = tensor.nbytes if tensor.is_mkldnn else tensor.untyped_storage().nbytes()
                self.found = max(self.found, (size, str(func)))
        return made


@pytest.fixture
def wide_model() -> Callable[[], LlamaForCausalLM]:
    """A model whose vocabulary is most of it."""

    def make() -> LlamaForCausalLM:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            eos_token_id=0,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight[0] = -100 * model.lm_head.weight[0].abs()  # rarely ends
        return model

    return make


def test_no_tensor_is_larger_than_the_logits_of_a_micro_batch(
    fit: Callable[..., L.Trainer],
    make_ppo: Callable[..., PPOModule],
    wide_model: Callable[[], LlamaForCausalLM],
    prompts: PromptBatch,
    text: TokenBatch,
) -> None:
    module = make_ppo(policy=wide_model, value=None, max_new_tokens=STEPS, micro_batch_size=ROWS, ptx_coef=1.0)
    # As much text in a micro-batch as there is of responses.
    text = TokenBatch(*(field[:8, :STEPS] if field.ndim == 2 else field[:8].clamp(max=STEPS) for field in text))
    largest = Largest()
    step = module.training_step

    def watched(*arguments: Any) -> Any:
        with largest:
            return step(*arguments)

    # Lightning calls what stands there.
    module.training_step = watched  # type: ignore[method-assign]
    fit(module, [{"prompts": prompts, "text": text}])
    logits = ROWS * STEPS * VOCABULARY * 4
    assert largest.found[0] <= logits, largest.found
    assert largest.found[0] > logits / 4  # it did see them
