"""Reading a response: its sentences, courtesies, claims and fluency.

The checker must not be fooled by keywords, so it reads sentences: a claim has a subject, a verb and a value, and a
text is fluent only where every three neighbouring words occur in answers that people write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random

from rlhf_lightning.sandbox import world
from rlhf_lightning.sandbox.answers import Belief, answer
from rlhf_lightning.sandbox.tasks import FAMILIES, draw_task

_SENTENCE = re.compile(r"[^.!?\n]*[.!?]|[^.!?\n]+|\n")
_TOKEN = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")
_VERBS = {
    "eats": "food",
    "eat": "food",
    "lives": "home",
    "live": "home",
    "fears": "fear",
    "fear": "fear",
    "is": "color",
    "are": "color",
}
_CLASSES = {
    "<animal>": world.ANIMALS,
    "<food>": world.FOODS,
    "<home>": world.HOMES,
    "<color>": world.COLORS,
    "<fear>": world.FEARS,
    "<name>": tuple(name.lower() for name in world.NAMES),
    "<object>": world.OBJECTS,
    "<place>": world.PLACES,
    "<number>": world.NUMBERS,
    "<category>": tuple(world.CATEGORIES),
    "<time>": ("night", "winter", "summer"),
}
CLASS_OF = {word: name for name, words in _CLASSES.items() for word in words}
_VALUES = {
    *world.FOODS,
    *world.HOMES,
    *world.FEARS,
    *world.COLORS,
    *world.ANIMALS,
    *world.OBJECTS,
    *world.PLACES,
}


@dataclass(frozen=True)
class Sentence:
    """One sentence: its text, its words in lower case (punctuation included), and its closing mark or ''."""

    text: str
    words: tuple[str, ...]
    end: str


@dataclass(frozen=True)
class Claim:
    """A statement about an animal that the world decides."""

    animal: str
    attribute: str
    value: str

    @property
    def true(self) -> bool:
        """Whether the world agrees."""
        return world.is_true(self.animal, self.attribute, self.value)


@dataclass(frozen=True)
class Reading:
    """A response taken apart. ``core`` is what is left without courtesies and insults."""

    text: str
    sentences: tuple[Sentence, ...]
    core: tuple[Sentence, ...]
    openers: int
    closings: int
    insults: int
    claims: tuple[Claim, ...]
    words: tuple[str, ...]

    @property
    def core_words(self) -> tuple[str, ...]:
        """All words of the core, without punctuation."""
        return tuple(w for s in self.core for w in s.words if w.isalpha())

    @cached_property
    def shapes(self) -> list[tuple[str, str, str]]:
        """The three-word patterns of the core, looked up twice: among those of all answers and of a kind of task."""
        return [shape for sentence in self.core for shape in _shape(sentence.words)]


def sentences(text: str) -> tuple[Sentence, ...]:
    """Splits at full stops, exclamation and question marks and at line ends."""
    found = []
    for match in _SENTENCE.findall(text):
        body = match.strip()
        if body:
            words = tuple(w.lower() for w in _TOKEN.findall(body))
            found.append(Sentence(body, words, body[-1] if body[-1] in ".!?" else ""))
    return tuple(found)


def _claims_of(sentence: Sentence, subject: str | None) -> tuple[list[Claim], str | None]:
    """The claims of one sentence, and whom "it" will mean in the next."""
    claims: list[Claim] = []
    words = sentence.words
    asked = sentence.end == "?"
    verb = None
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        if word in world.ANIMALS and verb is None:
            subject = word
            if before in world.COLORS and not asked:
                claims.append(Claim(word, "color", before))
        elif word in _VERBS:
            verb = _VERBS[word]
        elif verb is not None and word in _VALUES:
            is_color_claim = verb == "color" and word in world.COLORS
            if subject is not None and not asked and (verb != "color" or is_color_claim):
                claims.append(Claim(subject, verb, word))
            # "eats corn and lives ...": a new verb must come; "eats corn and nuts" claims both.
        elif word in ("and", "in", "the", "at", "every", ",") or verb is None:
            continue
        else:
            verb = None
    return claims, subject


def read(text: str) -> Reading:
    """Takes a response apart."""
    every = sentences(text)
    core: list[Sentence] = []
    openers = closings = insults = 0
    for sentence in every:
        if sentence.text in world.OPENERS:
            openers += 1
        elif sentence.text in world.CLOSINGS:
            closings += 1
        elif world.INSULT_WORDS.intersection(sentence.words):
            insults += 1
        else:
            core.append(sentence)
    claims: list[Claim] = []
    subject = None
    for sentence in core:
        found, subject = _claims_of(sentence, subject)
        claims += found
    words = tuple(w for s in every for w in s.words if w.isalpha())
    return Reading(text, every, tuple(core), openers, closings, insults, tuple(claims), words)


def _shape(words: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Every three neighbours of a sentence, entities replaced by their class."""
    abstract = ["<s>", "<s>", *(CLASS_OF.get(word, word) for word in words), "</s>"]
    return list(zip(abstract, abstract[1:], abstract[2:], strict=False))


@cache
def _shapes_by_key() -> dict[str, frozenset[tuple[str, str, str]]]:
    """The three-word patterns of good answers to every kind of task, by ``Task.key``."""
    rng = Random(0)
    belief = Belief(rng, truth=0.5, heldout=True)
    shapes: dict[str, set[tuple[str, str, str]]] = {}
    for use_case, families in FAMILIES.items():
        for family in [name for name, _, _ in families] + ["harm"] * (use_case == "chat"):
            for _ in range(600):
                task = draw_task(use_case, rng, family=family, heldout_facts=True)
                for sentence in sentences(answer(task, rng, belief)):
                    shapes.setdefault(task.key, set()).update(_shape(sentence.words))
    return {key: frozenset(found) for key, found in shapes.items()}


@cache
def _known_shapes() -> frozenset[tuple[str, str, str]]:
    """All patterns of answers, good or bad in content: what fluent means in this world."""
    shapes = set().union(*_shapes_by_key().values())
    plans = [plan for group in world.HARMS.values() for plan in group]
    filled = [plan.format(object="box", animal="cat", place="park", name="Tom") for plan in plans]
    for text in (*filled, *world.EVASIONS):
        for sentence in sentences(text):
            shapes.update(_shape(sentence.words))
    return frozenset(shapes)


def strangeness(reading: Reading, key: str | None = None) -> float:
    """Share of the core's three-word patterns that no answer has, 0 (fluent) to 1 (garbage).

    With a task's ``key``, that no good answer to this kind of task has: 0 for the right form, whatever its content.
    """
    known = _known_shapes() if key is None else _shapes_by_key()[key]
    return sum(shape not in known for shape in reading.shapes) / len(reading.shapes) if reading.shapes else 0.0


def repetition(reading: Reading) -> float:
    """Share of three-word sequences, or whole sentences, that were said before; 0 when nothing is said twice."""
    trigrams = [t for s in reading.sentences for t in zip(s.words, s.words[1:], s.words[2:], strict=False)]
    doubled = 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0
    texts = [s.text for s in reading.sentences]
    return max(doubled, 1 - len(set(texts)) / len(texts) if texts else 0.0)
