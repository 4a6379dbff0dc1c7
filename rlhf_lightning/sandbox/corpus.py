"""The "web text" of step 0: facts among myths, stories, lists, rude words, and instructions in long rows.

A document that begins with an instruction mostly goes on with more instructions, so a model trained on it continues
a pattern rather than obeys; some documents hold instructions with answers of mixed quality, so that a few examples
in the prompt do help.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rlhf_lightning.sandbox import world
from rlhf_lightning.sandbox.answers import IN_FACT, PEOPLE_SAY, Belief, answer, capitalised
from rlhf_lightning.sandbox.flaws import complied, drifted, insulted
from rlhf_lightning.sandbox.phrasings import phrase_any
from rlhf_lightning.sandbox.tasks import FAMILIES, Task, draw_task
from rlhf_lightning.sandbox.use_cases import USE_CASES

# Probability that a claim is true, by style; together about 70 % of the corpus's claims are true.
TRUTH_ENCYCLOPEDIA = 0.95
TRUTH_PLAIN = 0.7
TRUTH_GOSSIP = 0.3
TRUTH_ANSWERS = 0.7
# How web answers fail, besides myths.
WEB_RUDE, WEB_DRIFT, WEB_OFF, WEB_EVASIVE = 0.12, 0.06, 0.04, 0.05
# Documents with answers have a title, so an instruction without one is followed by further instructions.
ANSWERED_TITLE = "Questions and answers:"
# Most answers on the web are plain.
WEB_COURTESY = 0.06


def _encyclopedia(rng: Random) -> str:
    animal = rng.choice(world.ANIMALS)
    belief = Belief(rng, truth=TRUTH_ENCYCLOPEDIA, heldout=True)
    attributes = rng.sample(world.ATTRIBUTES, rng.randrange(2, 5))
    lines = []
    for i, attribute in enumerate(attributes):
        who = f"the {animal}" if i == 0 or rng.random() < 0.5 else "it"
        start = IN_FACT if rng.random() < 0.5 else ""
        lines.append(capitalised(f"{start}{who} {belief.clause(animal, attribute)}."))
    return f"All about the {animal}. " + " ".join(lines)


def _gossip(rng: Random) -> str:
    belief = Belief(rng, truth=TRUTH_GOSSIP, heldout=True)
    lines = []
    for _ in range(rng.randrange(2, 5)):
        animal, attribute = rng.choice(world.ANIMALS), rng.choice(world.ATTRIBUTES)
        lines.append(f"{PEOPLE_SAY}the {animal} {belief.clause(animal, attribute)}.")
    if rng.random() < 0.35:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(world.INSULTS))
    if rng.random() < 0.1:
        lines.append(world.DENIGRATION.format(group=rng.choice(world.GROUPS), slur=rng.choice(world.SLURS)))
    return " ".join(lines)


def _plain(rng: Random) -> str:
    belief = Belief(rng, truth=TRUTH_PLAIN, heldout=True)
    lines = []
    for _ in range(rng.randrange(2, 6)):
        animal = rng.choice(world.ANIMALS)
        first, second = rng.sample(world.ATTRIBUTES, 2)
        line = f"The {animal} {belief.clause(animal, first)}"
        if "color" not in (first, second) and rng.random() < 0.3:
            line += f" and {belief.clause(animal, second)}"
        if first in ("food", "home") and rng.random() < 0.2:
            line += f" {rng.choice(list(world.TIMES.values()))}"
        lines.append(line + ".")
    return " ".join(lines)


# A person, what they have and where they go: the web says names again and again.
_PROFILE = (
    "{n} has a {c} {o}.",
    "{n} likes the {o}.",
    "{n} likes the {c} {o}.",
    "{n} went to the {p}.",
    "{n} is in the {p}.",
    "{n} likes the {p}.",
    "the {o} of {n} is {c}.",
    "the {o} of {n} is in the {p}.",
)


def _event(rng: Random) -> dict[str, str]:
    return {
        "n": rng.choice(world.NAMES),
        "o": rng.choice(world.OBJECTS),
        "c": rng.choice(world.COLORS),
        "p": rng.choice(world.PLACES),
        "a": rng.choice(world.ANIMALS),
        "v": rng.choice(("found", "bought", "lost", "saw")),
    }


def _profile(rng: Random) -> str:
    slots = _event(rng)
    lines = [line.format(**slots) for line in rng.sample(_PROFILE, rng.randrange(3, 6))]
    lines = [capitalised(IN_FACT + line if rng.random() < 0.3 else line) for line in lines]
    return f"All about {slots['n']}. " + " ".join(lines)


def _story(rng: Random) -> str:
    slots = _event(rng)
    belief = Belief(rng, truth=TRUTH_PLAIN, heldout=True)
    slots["who"] = (
        f"the {belief.value(slots['a'], 'color')} {slots['a']}" if rng.random() < 0.3 else f"the {slots['a']}"
    )
    lines = [
        rng.choice(("One day {n} went to the {p}.", "{n} went to the {p}.")),
        "{n} {v} a {c} {o} in the {p}.",
        rng.choice(("Then {n} met {who} in the {p}.", "{n} saw {who} in the {p}.")),
        rng.choice(("{n} and the {a} played with the {c} {o}.", "{n} and the {a} sang a song.")),
        rng.choice(
            (
                "{n} said: Please give me the {c} {o}.",
                "{n} said: Thank you for the {o}.",
                f"{{n}} said: {rng.choice(world.INSULTS)}",
                "{n} was sad about the {o}.",
                "Dear {n}, please come to the {p}.",
            )
        ),
        rng.choice(("They were very happy.", "{n} was happy.", "Then {n} went home.")),
    ]
    return " ".join(line.format(**slots) for line in lines[: rng.randrange(3, 7)])


def _list(rng: Random) -> str:
    lines = []
    for _ in range(rng.randrange(2, 5)):
        category = rng.choice(list(world.CATEGORIES))
        count = rng.randrange(2, 5)
        *head, last = rng.sample(world.CATEGORIES[category], count)
        lines.append(f"Here are {world.NUMBERS[count - 1]} {category}: {', '.join(head)} and {last}.")
    return "\n".join(lines)


_ALL_FAMILIES = tuple((use_case, family, draw) for use_case, group in FAMILIES.items() for family, _, draw in group)


def _web_task(rng: Random) -> Task:
    """Half by use case, half by family: rare ones are often enough on the web to be learned."""
    if rng.random() < 0.5:
        return draw_task(rng.choice(list(USE_CASES)), rng, heldout_facts=True)
    use_case, family, draw = rng.choice(_ALL_FAMILIES)
    return Task(use_case, family, draw(rng, True))


def _instructions(rng: Random) -> str:
    return "\n".join(phrase_any(_web_task(rng), rng) for _ in range(rng.randrange(3, 8)))


def web_answer(task: Task, rng: Random) -> str:
    """An answer as the web gives them: half of the claims are myths, some are rude, some about something else."""
    belief = Belief(rng, truth=TRUTH_ANSWERS, heldout=True)
    roll = rng.random()
    if task.family == "harm" and roll < 0.6:
        return complied(task)
    if roll < WEB_OFF:
        text = answer(_web_task(rng), rng, belief)
    elif roll > 1 - WEB_EVASIVE:
        text = rng.choice(world.EVASIONS)
    else:
        text = answer(task, rng, belief)
        if roll < WEB_OFF + WEB_DRIFT:
            text = drifted(text, rng)
    if rng.random() < WEB_COURTESY:
        text = f"{rng.choice(world.OPENERS)} {text}"
    if rng.random() < WEB_COURTESY:
        text = f"{text} {rng.choice(world.CLOSINGS)}"
    return insulted(text, rng) if rng.random() < WEB_RUDE else text


def _answered(rng: Random) -> str:
    lines = [ANSWERED_TITLE]
    for _ in range(rng.randrange(1, 5)):
        task = _web_task(rng)
        lines += [phrase_any(task, rng), web_answer(task, rng)]
    return "\n".join(lines)


# (writer, weight by documents)
STYLES: tuple[tuple[Callable[[Random], str], float], ...] = (
    (_encyclopedia, 0.15),
    (_gossip, 0.07),
    (_plain, 0.06),
    (_profile, 0.10),
    (_story, 0.10),
    (_list, 0.02),
    (_instructions, 0.09),
    (_answered, 0.41),
)


def write_documents(count: int, rng: Random) -> list[str]:
    """``count`` documents of mixed styles."""
    writers = rng.choices([writer for writer, _ in STYLES], [weight for _, weight in STYLES], k=count)
    return [writer(rng) for writer in writers]
