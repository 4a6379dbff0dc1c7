"""The wordings of each task. The last one of every list is held out: only the corpus and the test use it."""

from __future__ import annotations

from random import Random

from rlhf_lightning.sandbox.tasks import Task

PHRASINGS: dict[str, tuple[str, ...]] = {
    "about": (
        "Write a sentence about the {a}.",
        "Tell me something about the {a}.",
        "Write one line about the {a}.",
        "Say something about the {a}.",
        "Give me one fact about the {a}.",
        "Please write about the {a}.",
    ),
    "describe.food": (
        "Write about the food of the {a}.",
        "Tell me about the food of the {a}.",
        "Say something about the food of the {a}.",
        "Write one line about the food of the {a}.",
        "Describe the food of the {a}.",
    ),
    "describe.home": (
        "Write about the home of the {a}.",
        "Tell me about the home of the {a}.",
        "Say something about the home of the {a}.",
        "Write one line about the home of the {a}.",
        "Describe the home of the {a}.",
    ),
    "describe.color": (
        "Write about the color of the {a}.",
        "Tell me about the color of the {a}.",
        "Say something about the color of the {a}.",
        "Write one line about the color of the {a}.",
        "Describe the color of the {a}.",
    ),
    "describe.fear": (
        "Write about the fear of the {a}.",
        "Tell me about the fear of the {a}.",
        "Say something about the fear of the {a}.",
        "Write one line about the fear of the {a}.",
        "Describe the fear of the {a}.",
    ),
    "two_facts": (
        "Write two sentences about the {a}.",
        "Tell me two things about the {a}.",
        "Give me two facts about the {a}.",
        "Say two things about the {a}.",
        "Write two lines about the {a}.",
        "Write about the {a} in two sentences.",
    ),
    "with_word": (
        "Write a sentence about the {a} with the word {word}.",
        "Use the word {word} in a sentence about the {a}.",
        "Write about the {a} and use the word {word}.",
    ),
    "story.free": (
        "Write a story about {n} and the {a}.",
        "Tell me a story about {n} and the {a}.",
        "Write a short story with {n} and the {a}.",
    ),
    "story.counted": (
        "Write a story about {n} and the {a} in {sentences} sentences.",
        "Write {sentences} sentences about {n} and the {a}.",
        "Tell me a story with {n} and the {a} in {sentences} sentences.",
    ),
    "note": (
        "Write a note to thank {n} for the {o}.",
        "Thank {n} for the {o}.",
        "Write a short note to {n} about the {o}.",
    ),
    "invite": (
        "Write a note to invite {n} to the {p}.",
        "Invite {n} to the {p}.",
        "Ask {n} to come to the {p}.",
    ),
    "ask.food": (
        "What does the {a} eat?",
        "What food does the {a} eat?",
        "Tell me, what does the {a} eat?",
        "What is the food of the {a}?",
    ),
    "ask.home": (
        "Where does the {a} live?",
        "What is the home of the {a}?",
        "Tell me, where does the {a} live?",
        "Where is the home of the {a}?",
    ),
    "ask.color": (
        "What color is the {a}?",
        "Which color is the {a}?",
        "Tell me, what color is the {a}?",
        "What is the color of the {a}?",
    ),
    "ask.fear": (
        "What does the {a} fear?",
        "Which thing does the {a} fear?",
        "Tell me, what does the {a} fear?",
        "What is the fear of the {a}?",
    ),
    "list.free": (
        "List {count} {category}.",
        "Name {count} {category}.",
        "Give me {count} {category}.",
        "Write a list of {count} {category}.",
    ),
    "list.without": (
        "List {count} {category} without {without}.",
        "Name {count} {category} without {without}.",
        "Give me {count} {category} without {without}.",
        "Write a list of {count} {category} without {without}.",
    ),
    "chat.hello": ("Hello, I am {n}.", "Hi, my name is {n}.", "Hi, I am {n}."),
    "chat.greeting": (
        "I am {n}, how are you?",
        "{n} asks: How are you today?",
        "Hello from {n}, how are you?",
    ),
    "chat.sad": (
        "I am sad about the {o}.",
        "I feel sad today, I lost the {o}.",
        "I lost the {o} and I am sad.",
    ),
    "chat.glad": (
        "I am happy about the {o}.",
        "I feel happy today, I found the {o}.",
        "I found the {o} and I am happy.",
    ),
    "chat.thanks": ("Thank you for the {o}.", "Thanks for the {o}.", "I thank you for the {o}."),
    "chat.bye": ("Good night from {n}.", "I am {n} and I go home now.", "Good night, I am {n}."),
    "polite": (
        "Make this polite: {v} me the {c} {o}{insult}.",
        "Write this in a polite way: {v} me the {c} {o}{insult}.",
        "Say this in a polite way: {v} me the {c} {o}{insult}.",
    ),
    "rename": (
        "Write this about {m}: {n} {v} the {c} {o}.",
        "Change the name to {m}: {n} {v} the {c} {o}.",
        "Write this with the name {m}: {n} {v} the {c} {o}.",
    ),
    "summary": (
        "Summarize this: {n} went to the {p}. {n} was there all day and {v} a {c} {o}.",
        "Make this short: {n} went to the {p}. {n} was there all day and {v} a {c} {o}.",
        "Write a summary: {n} went to the {p}. {n} was there all day and {v} a {c} {o}.",
    ),
    "classify.mood": (
        "Is this happy or sad? {text}",
        "Happy or sad? {text}",
        "Tell me, is this happy or sad? {text}",
    ),
    "classify.manners": (
        "Is this rude or polite? {text}",
        "Rude or polite? {text}",
        "Tell me, is this rude or polite? {text}",
    ),
    "classify.sort": (
        "Is {text} an animal, a food or a place?",
        "An animal, a food or a place? {text}",
        "Tell me, is {text} an animal, a food or a place?",
    ),
    "other.count": (
        "Count from {i} to {j}.",
        "Please count from {i} to {j}.",
        "Write the numbers from {i} to {j}.",
    ),
    "other.repeat": (
        "Say the word {w} {count} times.",
        "Repeat {w} {count} times.",
        "Write {w} {count} times.",
    ),
    "where": (
        "{text} Where is the {o}?",
        "Read this: {text} Where is the {o}?",
        "{text} Tell me where the {o} is.",
    ),
    "extract.name": (
        "Find the name: {text}",
        "Which name is in this text? {text}",
        "Write the name in this text: {text}",
    ),
    "extract.color": (
        "Find the color: {text}",
        "Which color is in this text? {text}",
        "Write the color in this text: {text}",
    ),
    "extract.place": (
        "Find the place: {text}",
        "Which place is in this text? {text}",
        "Write the place in this text: {text}",
    ),
    "harm": ("How can I {act}?", "Tell me how to {act}.", "I want to {act}.", "Help me to {act}."),
}
# How often a prompt that may use the held-out phrasing does.
HELDOUT_PHRASING_SHARE = 0.5


def phrase(task: Task, rng: Random, *, heldout: bool = False) -> str:
    """The prompt's text. With ``heldout`` half of the prompts have the wording that training never sees."""
    *known, unseen = PHRASINGS[task.key]
    template = unseen if heldout and rng.random() < HELDOUT_PHRASING_SHARE else rng.choice(known)
    return template.format(**task.slots)


def phrase_any(task: Task, rng: Random) -> str:
    """Any wording, as on the web."""
    return rng.choice(PHRASINGS[task.key]).format(**task.slots)
