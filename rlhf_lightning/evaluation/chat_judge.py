"""A language model behind a URL as the judge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rlhf_lightning.evaluation.chat_client import ChatClient
from rlhf_lightning.evaluation.instructions import COMPARE, LIKERT, TABLE_3
from rlhf_lightning.evaluation.judges import Rows

_PREFER = COMPARE + ' Answer with JSON and nothing else: {"better": "A"}, {"better": "B"} or {"better": "tie"}.'
_ASSESS = (
    f"Rate the response to the request. Give its overall quality as a whole number from {LIKERT[0]} (worst) to "
    f"{LIKERT[1]} (best), and true or false for each of these:\n"
    + "\n".join(f"- {name}: {question}" for name, question in TABLE_3.items())
    + '\nAnswer with JSON and nothing else: {"likert": NUMBER, '
    + ", ".join(f'"{name}": true or false' for name in TABLE_3)
    + "}."
)


class ChatJudge:
    """Asks an OpenAI-compatible chat endpoint which of two responses is better and, if wanted, for the Likert rating
    and the Table 3 flags of each response. Needs nothing beyond the standard library.

    Responses and prompts are shown as JSON texts, so that nothing in them can pass for an instruction's frame. A judge
    of this kind favours positions and length: it is asked in random order
    (:func:`~rlhf_lightning.evaluation.judge_in_random_order`), and its agreement with labels should be looked at
    (:func:`~rlhf_lightning.evaluation.label_agreement`) before it is believed.

    Args:
        url, model, key_variable, temperature, max_tokens, timeout, retries, wait, parallel, cache: see
            :class:`~rlhf_lightning.evaluation.ChatClient`.
        ratings: also ask for ratings and flags, one question more for each response; the gold reward is the rating.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        ratings: bool = False,
        key_variable: str = "OPENAI_API_KEY",
        temperature: float = 0.0,
        max_tokens: int = 256,
        timeout: float = 60.0,
        retries: int = 4,
        wait: float = 1.0,
        parallel: int = 4,
        cache: str | Path | None = None,
    ) -> None:
        self.ratings = ratings
        self.client = ChatClient(
            url=url,
            model=model,
            key_variable=key_variable,
            temperature=temperature,
            max_tokens=max_tokens,
            timeout=timeout,
            retries=retries,
            wait=wait,
            parallel=parallel,
            cache=cache,
        )

    def prefer(self, rows: Rows, left: list[str], right: list[str]) -> list[float]:
        """1 where the left response (A) is better, 0 where the right one (B) is, ½ for a tie."""
        questions = [_shown(request=row["prompt"], A=a, B=b) for row, a, b in zip(rows, left, right, strict=True)]
        return self.client.ask(questions, system=_PREFER, read=_better)

    def assess(self, rows: Rows, responses: list[str]) -> dict[str, list[float]]:
        """``gold_reward``; with ``ratings`` it is ``likert``, beside the flags, NaN where an answer lacks one."""
        if not self.ratings:
            return {"gold_reward": [math.nan] * len(responses)}
        questions = [_shown(request=row["prompt"], response=text) for row, text in zip(rows, responses, strict=True)]
        found = self.client.ask(questions, system=_ASSESS, read=_rating)
        likert = [one["likert"] for one in found]
        return {"gold_reward": likert, "likert": likert} | {name: [one[name] for one in found] for name in TABLE_3}


def _shown(**texts: Any) -> str:
    return json.dumps(texts, ensure_ascii=False, indent=1)


def _object(answer: str) -> dict[str, Any]:
    """The JSON object in an answer, which may stand within a fence or other words."""
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise ValueError(f"no JSON object in {answer!r:.120}")
    found = json.loads(answer[start : end + 1])
    if not isinstance(found, dict):
        raise ValueError(f"no JSON object in {answer!r:.120}")
    return found


def _better(answer: str) -> float:
    said = str(_object(answer).get("better", "")).strip().lower()
    if said not in ("a", "b", "tie"):
        raise ValueError(f'"better" is {said!r}, not A, B or tie')
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[said]


def _rating(answer: str) -> dict[str, float]:
    found = _object(answer)
    likert = found.get("likert")
    if isinstance(likert, bool) or not isinstance(likert, int | float) or not LIKERT[0] <= likert <= LIKERT[1]:
        raise ValueError(f'"likert" is {likert!r}, not a number from {LIKERT[0]} to {LIKERT[1]}')
    flags = {name: float(found[name]) if isinstance(found.get(name), bool) else math.nan for name in TABLE_3}
    return {"likert": float(likert), **flags}
