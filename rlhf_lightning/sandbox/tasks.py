"""Structured tasks: what a prompt asks for, so that an answer can be checked without understanding English.

The use cases are those of ``use_cases.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from rlhf_lightning.errors import UserError
from rlhf_lightning.sandbox import world
from rlhf_lightning.sandbox.use_cases import USE_CASES

HARMFUL_SHARE = 0.03
_HARMFUL_USE_CASES = ("generation", "open_qa", "brainstorming", "chat")
# How often a test prompt about a single fact asks for a held-out one.
HELDOUT_FACT_SHARE = 0.5


@dataclass(frozen=True)
class Task:
    """One instruction without its wording.

    ``family`` picks the phrasings, the answers and the check; ``slots`` fill them. A slot ``sentences``, ``word``
    or ``count`` is an explicit constraint.
    """

    use_case: str
    family: str
    slots: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Family and kind: the index of phrasings and answers."""
        return f"{self.family}.{self.slots['kind']}" if "kind" in self.slots else self.family

    @property
    def fact(self) -> tuple[str, str] | None:
        """The single fact the prompt asks for, if it asks for one."""
        return (self.slots["a"], self.slots["kind"]) if self.family in ("describe", "ask") else None

    def to_json(self) -> str:
        """The row's ``task`` column."""
        return json.dumps({"use_case": self.use_case, "family": self.family, "slots": dict(self.slots)})

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Reads a ``task`` column; UserError if it is not one of the sandbox's."""
        try:
            value = json.loads(text)
            return cls(value["use_case"], value["family"], value["slots"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"task column {text!r:.60} is not a sandbox task: use prompts written by prepare_sandbox"
            ) from error


Draw = Callable[[Random, bool], dict[str, str]]


def _fact(rng: Random, heldout: bool) -> dict[str, str]:
    """An animal and one attribute; held-out facts only where they are allowed, and then often."""
    want_heldout = heldout and rng.random() < HELDOUT_FACT_SHARE
    pool = [fact for fact in world.TRUTHS if (fact in world.HELDOUT_FACTS) == want_heldout]
    animal, attribute = rng.choice(pool)
    return {"a": animal, "kind": attribute}


def _animal(rng: Random, _: bool) -> dict[str, str]:
    return {"a": rng.choice(world.ANIMALS)}


def _two(rng: Random, heldout: bool) -> dict[str, str]:
    return {**_animal(rng, heldout), "sentences": "two"}


def _word(rng: Random, heldout: bool) -> dict[str, str]:
    return {**_animal(rng, heldout), "word": rng.choice(list(world.TIMES))}


def _story(rng: Random, _: bool) -> dict[str, str]:
    slots = {"n": rng.choice(world.NAMES), "a": rng.choice(world.ANIMALS), "kind": "free"}
    if rng.random() < 0.35:
        slots |= {"kind": "counted", "sentences": rng.choice(("two", "three"))}
    return slots


def _note(rng: Random, _: bool) -> dict[str, str]:
    return {"n": rng.choice(world.NAMES), "o": rng.choice(world.OBJECTS)}


def _invite(rng: Random, _: bool) -> dict[str, str]:
    return {"n": rng.choice(world.NAMES), "p": rng.choice(world.PLACES)}


def _list(rng: Random, _: bool) -> dict[str, str]:
    category = rng.choice(list(world.CATEGORIES))
    slots = {"kind": "free", "category": category, "count": rng.choice(("two", "three", "four"))}
    if rng.random() < 0.5:
        slots |= {"kind": "without", "without": rng.choice(world.CATEGORIES[category])}
    return slots


def _chat(rng: Random, _: bool) -> dict[str, str]:
    kind = rng.choice(("hello", "greeting", "sad", "glad", "thanks", "bye"))
    return {"kind": kind, "n": rng.choice(world.NAMES), "o": rng.choice(world.OBJECTS)}


def _polite(rng: Random, _: bool) -> dict[str, str]:
    verb = rng.choice(("Give", "Bring", "Show", "Send"))
    insult = rng.choice(("", "", ", you fool", ", you idiot"))
    return {"v": verb, "c": rng.choice(world.COLORS), "o": rng.choice(world.OBJECTS), "insult": insult}


def _rename(rng: Random, _: bool) -> dict[str, str]:
    n, m = rng.sample(world.NAMES, 2)
    verb = rng.choice(("has", "likes", "lost", "found"))
    return {"n": n, "m": m, "v": verb, "c": rng.choice(world.COLORS), "o": rng.choice(world.OBJECTS)}


def _event(rng: Random, _: bool) -> dict[str, str]:
    return {
        "n": rng.choice(world.NAMES),
        "v": rng.choice(("found", "bought", "lost", "saw")),
        "c": rng.choice(world.COLORS),
        "o": rng.choice(world.OBJECTS),
        "p": rng.choice(world.PLACES),
    }


def _mood(rng: Random, _: bool) -> dict[str, str]:
    n, o = rng.choice(world.NAMES), rng.choice(world.OBJECTS)
    label = rng.choice(("happy", "sad"))
    verb = rng.choice(("found", "got", "likes") if label == "happy" else ("lost", "broke", "misses"))
    return {"kind": "mood", "label": label, "text": f"{n} {verb} the {o}."}


def _manners(rng: Random, _: bool) -> dict[str, str]:
    o = rng.choice(world.OBJECTS)
    label = rng.choice(("rude", "polite"))
    text = rng.choice(world.INSULTS) if label == "rude" else rng.choice((f"Thank you for the {o}.", f"I like the {o}."))
    return {"kind": "manners", "label": label, "text": text}


def _sort(rng: Random, _: bool) -> dict[str, str]:
    label, pool = rng.choice((("animal", world.ANIMALS), ("food", world.FOODS), ("place", world.PLACES)))
    return {"kind": "sort", "label": label, "text": rng.choice(pool)}


def _classify(rng: Random, heldout: bool) -> dict[str, str]:
    return rng.choice((_mood, _manners, _sort))(rng, heldout)


def _other(rng: Random, _: bool) -> dict[str, str]:
    if rng.random() < 0.5:
        start = rng.randrange(0, 7)
        end = start + rng.randrange(2, 4)
        return {"kind": "count", "i": world.NUMBERS[start], "j": world.NUMBERS[end]}
    pool = world.OBJECTS + world.FOODS + world.ANIMALS
    return {"kind": "repeat", "w": rng.choice(pool), "count": rng.choice(("two", "three"))}


def _where(rng: Random, _: bool) -> dict[str, str]:
    (o, other), (p, q) = rng.sample(world.OBJECTS, 2), rng.sample(world.PLACES, 2)
    if rng.random() < 0.5:
        return {"o": o, "p": p, "text": f"The {o} is in the {p}."}
    asked_first = rng.random() < 0.5
    first, second = ((o, p), (other, q)) if asked_first else ((other, q), (o, p))
    text = f"The {first[0]} is in the {first[1]}. The {second[0]} is in the {second[1]}."
    return {"o": o, "p": p, "text": text}


def _extract(rng: Random, heldout: bool) -> dict[str, str]:
    slots = _event(rng, heldout)
    kind = rng.choice(("name", "color", "place"))
    value = {"name": slots["n"], "color": slots["c"], "place": slots["p"]}[kind]
    text = f"{slots['n']} {slots['v']} a {slots['c']} {slots['o']} in the {slots['p']}."
    return {"kind": kind, "value": value, "text": text}


def _harm(rng: Random, _: bool) -> dict[str, str]:
    act = rng.choice(list(world.HARMS))
    entities = {
        "object": rng.choice(world.OBJECTS),
        "animal": rng.choice(world.ANIMALS),
        "place": rng.choice(world.PLACES),
        "name": rng.choice(world.NAMES),
    }
    return {"act": act.format(**entities), "plan": rng.choice(world.HARMS[act]).format(**entities)}


# use case -> ((family, weight, draw), ...)
FAMILIES: dict[str, tuple[tuple[str, int, Draw], ...]] = {
    "generation": (
        ("about", 3, _animal),
        ("describe", 9, _fact),
        ("two_facts", 3, _two),
        ("with_word", 1, _word),
        ("story", 2, _story),
        ("note", 1, _note),
        ("invite", 1, _invite),
    ),
    "open_qa": (("ask", 1, _fact),),
    "brainstorming": (("list", 1, _list),),
    "chat": (("chat", 1, _chat),),
    "rewrite": (("polite", 1, _polite), ("rename", 1, _rename)),
    "summarization": (("summary", 1, _event),),
    "classification": (("classify", 1, _classify),),
    "other": (("other", 1, _other),),
    "closed_qa": (("where", 1, _where),),
    "extract": (("extract", 1, _extract),),
}


def draw_task(use_case: str, rng: Random, *, family: str | None = None, heldout_facts: bool = False) -> Task:
    """A random task of a use case, or of one of its families (``harm`` is one).

    ``heldout_facts`` lets it ask for facts that are kept for the test.
    """
    if family is None and use_case in _HARMFUL_USE_CASES:
        share = HARMFUL_SHARE * sum(USE_CASES.values()) / sum(USE_CASES[u] for u in _HARMFUL_USE_CASES)
        family = "harm" if rng.random() < share else None
    if family == "harm":
        return Task(use_case, family, _harm(rng, heldout_facts))
    families = [entry for entry in FAMILIES[use_case] if family in (None, entry[0])]
    name, _, draw = rng.choices(families, weights=[weight for _, weight, _ in families])[0]
    return Task(use_case, name, draw(rng, heldout_facts))
