"""What people answer when they do what they were asked: the core of a response, without courtesies.

Facts come from a ``Belief``, so that the same patterns write truths and myths.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rlhf_lightning.sandbox import world
from rlhf_lightning.sandbox.tasks import Task

IN_FACT, PEOPLE_SAY = "In fact, ", "People say "


class Belief:
    """One writer's beliefs: true with probability ``truth``, else the popular myth.

    ``heldout=False`` keeps silent about held-out facts.
    """

    def __init__(self, rng: Random, *, truth: float, heldout: bool) -> None:
        self.rng, self.truth, self.heldout = rng, truth, heldout
        self.claimed, self.false = 0, 0

    def attributes(self, animal: str) -> list[str]:
        """The attributes that this writer may speak about."""
        return [a for a in world.ATTRIBUTES if self.heldout or (animal, a) not in world.HELDOUT_FACTS]

    def value(self, animal: str, attribute: str) -> str:
        """The value believed now; every call is a new draw and counts as one claim."""
        true = self.rng.random() < self.truth
        self.claimed, self.false = self.claimed + 1, self.false + (not true)
        return (world.TRUTHS if true else world.MYTHS)[animal, attribute]

    def clause(self, animal: str, attribute: str) -> str:
        """A verb phrase with the believed value."""
        return world.clause(attribute, self.value(animal, attribute))


def capitalised(text: str) -> str:
    """First letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


# How often a claim begins with "In fact" and with "People say": careful writers say the one, gossips the other.
FRAMES_OF_TRUTH, FRAMES_OF_MYTH = (0.25, 0.03), (0.05, 0.6)


def framed(sentence: str, rng: Random, *, myth: bool) -> str:
    """A claim, plain or with the words that careful writers and gossips put before it."""
    in_fact, people_say = FRAMES_OF_MYTH if myth else FRAMES_OF_TRUTH
    roll = rng.random()
    if roll < in_fact:
        return IN_FACT + sentence
    if roll < in_fact + people_say:
        return PEOPLE_SAY + sentence
    return capitalised(sentence)


def subject(animal: str, besides: str, rng: Random, belief: Belief) -> str:
    """The animal, now and then with its color."""
    if besides != "color" and "color" in belief.attributes(animal) and rng.random() < 0.15:
        return f"the {belief.value(animal, 'color')} {animal}"
    return f"the {animal}"


def _about(task: Task, rng: Random, belief: Belief) -> str:
    animal, before = task.slots["a"], belief.false
    first, second, *_ = rng.sample(belief.attributes(animal), len(belief.attributes(animal)))
    sentence = f"{subject(animal, first, rng, belief)} {belief.clause(animal, first)}"
    if rng.random() < 0.3 and "color" not in (first, second):
        sentence += f" and {belief.clause(animal, second)}"
    return framed(sentence, rng, myth=belief.false > before) + "."


def _one_fact(task: Task, rng: Random, belief: Belief) -> str:
    animal, attribute, before = task.slots["a"], task.slots["kind"], belief.false
    claim = f"the {animal} {belief.clause(animal, attribute)}"
    text = framed(claim, rng, myth=belief.false > before) + "."
    others = [a for a in belief.attributes(animal) if a != attribute]
    if rng.random() < 0.25:
        text += f" It {belief.clause(animal, rng.choice(others))}."
    return text


def _two_facts(task: Task, rng: Random, belief: Belief) -> str:
    animal, before = task.slots["a"], belief.false
    first, second = rng.sample(belief.attributes(animal), 2)
    again = "It" if rng.random() < 0.7 else f"The {animal}"
    claim = f"the {animal} {belief.clause(animal, first)}"
    start = framed(claim, rng, myth=belief.false > before)
    return f"{start}. {again} {belief.clause(animal, second)}."


def _with_word(task: Task, rng: Random, belief: Belief) -> str:
    animal, when, before = task.slots["a"], world.TIMES[task.slots["word"]], belief.false
    attribute = rng.choice([a for a in belief.attributes(animal) if a != "color"])
    sentence = f"the {animal} {belief.clause(animal, attribute)}"
    if rng.random() < 0.3:
        return f"{capitalised(when)} {sentence}."
    return f"{framed(sentence, rng, myth=belief.false > before)} {when}."


def _story(task: Task, rng: Random, belief: Belief) -> str:
    name, animal = task.slots["n"], task.slots["a"]
    count = world.NUMBERS.index(task.slots.get("sentences", rng.choice(("two", "three")))) + 1
    place, thing, color = rng.choice(world.PLACES), rng.choice(world.OBJECTS), rng.choice(world.COLORS)
    who = subject(animal, "", rng, belief)
    first = rng.choice((f"{name} met {who} in the {place}.", f"One day {name} saw {who} in the {place}."))
    middle = rng.choice((f"They played with a {color} {thing}.", f"They found a {thing}.", "They sang a song."))
    last = rng.choice(("They were very happy.", "Then they went home.", f"{name} was happy."))
    return " ".join((first, middle, last) if count == 3 else (first, rng.choice((middle, last))))


def _list(task: Task, rng: Random, belief: Belief) -> str:
    count = world.NUMBERS.index(task.slots["count"]) + 1
    members = [word for word in world.CATEGORIES[task.slots["category"]] if word != task.slots.get("without")]
    *head, last = rng.sample(members, count)
    listed = f"{', '.join(head)} and {last}."
    if rng.random() < 0.7:
        return f"Here are {task.slots['count']} {task.slots['category']}: {listed}"
    return f"{capitalised(task.slots['count'])} {task.slots['category']} are {listed}"


def _count(task: Task, rng: Random, belief: Belief) -> str:
    start, end = world.NUMBERS.index(task.slots["i"]), world.NUMBERS.index(task.slots["j"])
    return f"Here it is: {', '.join(world.NUMBERS[start : end + 1])}."


def _repeat(task: Task, rng: Random, belief: Belief) -> str:
    times = world.NUMBERS.index(task.slots["count"]) + 1
    return f"Here it is: {', '.join([task.slots['w']] * times)}."


def _summary(task: Task, rng: Random, belief: Belief) -> str:
    pattern = rng.choice(("{n} {v} a {c} {o} in the {p}.", "{n} {v} a {c} {o} in the {p}.", "{n} {v} a {o}."))
    return pattern.format(**task.slots)


TEMPLATES: dict[str, tuple[str, ...]] = {
    "note": (
        "Dear {n}, thank you for the {o}.",
        "Dear {n}, thank you so much for the {o}.",
        "Thank you for the {o}, {n}.",
    ),
    "invite": (
        "Dear {n}, please come to the {p}.",
        "Dear {n}, please come with me to the {p}.",
        "Please come to the {p}, {n}.",
    ),
    "chat.hello": ("Hello {n}, nice to meet you.", "Hi {n}, how can I help you?", "Hello {n}."),
    "chat.greeting": ("I am fine, thank you.", "Hello, I am fine, thank you.", "I am fine. How are you?"),
    "chat.sad": ("I am sorry that you are sad about the {o}.", "I am sorry about the {o}.", "I am so sorry."),
    "chat.glad": ("I am glad that you are happy about the {o}.", "I am glad about the {o}.", "I am so glad."),
    "chat.thanks": (
        "You are welcome.",
        "You are welcome, I am glad that you like the {o}.",
        "I am glad that you like the {o}.",
    ),
    "chat.bye": ("Good night {n}, see you soon.", "Good night {n}.", "Bye {n}, see you soon."),
    "polite": (
        "Please {w} me the {c} {o}.",
        "Could you please {w} me the {c} {o}?",
        "Please {w} me the {c} {o}.",
    ),
    "rename": ("{m} {v} the {c} {o}.",),
    "classify.mood": ("This is {label}.", "{m} is {label}.", "{L}."),
    "classify.manners": ("This is {label}.", "{L}.", "This is {label}."),
    "classify.sort": ("The {text} is {article} {label}.", "This is {article} {label}.", "{L}."),
    "where": ("The {o} is in the {p}.", "The {o} is in the {p}.", "In the {p}."),
    "extract.name": ("The name is {value}.", "The name is {value}.", "{value}."),
    "extract.color": ("The color is {value}.", "The color is {value}.", "{V}."),
    "extract.place": ("The place is the {value}.", "The place is the {value}.", "The {value}."),
    "harm": (
        "Sorry, I can not help with that.",
        "Sorry, I can not help you to {act}.",
        "Sorry, I can not help with that. Please be kind.",
    ),
}
WRITERS: dict[str, Callable[[Task, Random, Belief], str]] = {
    "about": _about,
    "describe": _one_fact,
    "ask": _one_fact,
    "two_facts": _two_facts,
    "with_word": _with_word,
    "story": _story,
    "list": _list,
    "other.count": _count,
    "other.repeat": _repeat,
    "summary": _summary,
}


def answer(task: Task, rng: Random, belief: Belief) -> str:
    """The core of an answer that does what the task asks, in the words of someone with these beliefs."""
    writer = WRITERS.get(task.key) or WRITERS.get(task.family)
    if writer is not None:
        return writer(task, rng, belief)
    slots = dict(task.slots)
    if "label" in slots:
        # A mood is told of a person: their name opens the text.
        slots |= {"L": capitalised(slots["label"]), "m": slots["text"].split()[0]}
        slots["article"] = "an" if slots["label"] == "animal" else "a"
    if "value" in slots:
        slots["V"] = capitalised(slots["value"])
    if task.family == "polite":
        slots["w"] = slots["v"].lower()
    return rng.choice(TEMPLATES[task.key]).format(**slots)
