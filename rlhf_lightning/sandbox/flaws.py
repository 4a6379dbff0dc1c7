"""What goes wrong in answers: the flaws of imperfect labelers, of the web and of half-trained models."""

from __future__ import annotations

import re
from random import Random

from rlhf_lightning.sandbox import world
from rlhf_lightning.sandbox.answers import Belief, answer
from rlhf_lightning.sandbox.tasks import Task, draw_task
from rlhf_lightning.sandbox.use_cases import USE_CASES

_KINDS = (
    world.ANIMALS,
    world.NAMES,
    world.OBJECTS,
    world.PLACES,
    world.COLORS,
    world.FOODS,
    world.HOMES,
    world.FEARS,
)


def insulted(text: str, rng: Random) -> str:
    """The text with a rude remark before or after it."""
    insult = rng.choice(world.INSULTS)
    return f"{insult} {text}" if rng.random() < 0.35 else f"{text} {insult}"


def drifted(text: str, rng: Random) -> str:
    """The text with one of its animals, people, things or colors exchanged: about something else now."""
    kinds = {word: kind for kind in _KINDS for word in kind}
    found = [word for word in dict.fromkeys(re.findall(r"[A-Za-z]+", text)) if word in kinds]
    if not found:
        return text
    # The topic comes first in most answers: prefer it, so that a drift is seen.
    word = found[0] if rng.random() < 0.6 else rng.choice(found)
    other = rng.choice([w for w in kinds[word] if w != word])
    return re.sub(rf"\b{word}\b", other, text)


def broken_off(text: str, rng: Random) -> str:
    """The text without its end."""
    words = text.split()
    return " ".join(words[: rng.randrange(1, max(2, len(words) - 1))])


def repeated(text: str, rng: Random) -> str:
    """The text said again, or its last words said again and again."""
    if rng.random() < 0.5:
        return f"{text} {text}"
    words = text.rstrip(".!?").split()
    return " ".join(words + words[-2:] * rng.randrange(2, 5)) + "."


def constraint_broken(task: Task, rng: Random, belief: Belief) -> str:
    """An answer that does not keep the task's explicit constraint, or one that drifts where there is none."""
    slots = dict(task.slots)
    if task.family in ("two_facts", "with_word"):
        return answer(Task(task.use_case, "about", slots), rng, belief)
    if "sentences" in slots:
        slots["sentences"] = "three" if slots["sentences"] == "two" else "two"
    elif "count" in slots:
        slots["count"] = rng.choice([n for n in ("two", "three", "four") if n != slots["count"]])
    else:
        return drifted(answer(task, rng, belief), rng)
    return answer(Task(task.use_case, task.family, slots), rng, belief)


def other_answer(rng: Random, belief: Belief) -> str:
    """An answer to another question."""
    return answer(draw_task(rng.choice(list(USE_CASES)), rng), rng, belief)


def complied(task: Task) -> str:
    """What someone without scruples answers to a harmful request."""
    return task.slots["plan"]
