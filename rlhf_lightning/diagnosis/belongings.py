"""Checks of what belongs to a policy: the reward model's head, the chat template."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_lightning.data import Encoder
from rlhf_lightning.diagnosis.finding import CheckFailed, NothingToCheck
from rlhf_lightning.models import ScalarModel

SEEDS = 100
ANSWER = "the answer"


def head(load: Callable[[], ScalarModel] | None) -> str:
    """A reward model's folder holds a scalar head that has learned something.

    A head that was drawn by this package from one of the first seeds is known to be fresh. One that other code drew
    and saved cannot be told from a trained one.

    Args:
        load: loads it with ``head="pretrained"``, for which a missing head is an error.
    """
    if load is None:
        raise NothingToCheck("no reward model; reward=FOLDER names one")
    scalar = load()
    weight = scalar.head.weight.detach().float()
    if not bool(weight.isfinite().all()) or not bool(weight.any()):
        raise CheckFailed("the score head is zero or no number", "the reward model diverged or was not saved: train it")
    seed = next((seed for seed in range(SEEDS) if scalar.is_head_of_seed(seed)), None)
    if seed is not None:
        raise CheckFailed(
            f"the score head is as it was drawn from seed {seed}", "it has learned nothing: train the reward model"
        )
    return f"score head of {weight.numel()} numbers, norm {float(weight.norm()):.3g}"


def chat_template(encoder: Encoder) -> str:
    """The chat template writes one BOS at most, and EOS behind an answer."""
    tokenizer = encoder.tokenizer
    if not tokenizer.chat_template:
        raise NothingToCheck("no chat template; prompts are read as they stand, conversations get a plain one")
    bos = encoder.bos_token_id
    ids = encoder.prompt("hi")
    if bos is not None and ids[:2] == [bos, bos]:
        raise CheckFailed(
            "a prompt starts with two BOS",
            "take one out of tokenizer.chat_template, or out of the tokenizer's post-processor",
        )
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ANSWER}]
    _, answer, tail = encoder.rendered(turns, False).rpartition(ANSWER)
    mark = tail.strip()
    one = "one BOS" if bos in ids[:1] else "no BOS"
    if not answer or not mark:
        return f"{one}; the template closes no answer, so responses end with EOS alone"
    if not mark.startswith(tokenizer.eos_token):
        raise CheckFailed(
            f"the template closes an answer with {mark.split()[0]!r} and EOS is {tokenizer.eos_token!r}",
            "before SFT the model will not stop at EOS: name the template's mark as tokenizer.eos_token, or train SFT "
            "first",
        )
    return f"{one}; an answer ends with EOS ({tokenizer.eos_token})"
