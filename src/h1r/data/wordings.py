"""Everyday wordings of generated problems: the same question as a person would ask it.

reasoning-gym has one template a family, sometimes two. A model that has seen no other reads nothing else: asked "What
is 12 + 30 - 7?", one that adds well answers something else. With `wordings = "everyday"` a source asks each of its
problems in one of the ways below, the library's own among them. Which one depends on the library's question alone, so
that one problem has one wording wherever it is drawn, and copies are copies. Reference, scorer and worked traces stay
those of the library's question.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LIBRARY = "{library}"
"""Stands for the library's own question. Listed twice: a sixth or so of a family keeps its wording."""

WORDINGS: dict[str, tuple[str, ...]] = {
    "chain_sum": (
        LIBRARY,
        LIBRARY,
        "What is {sum}?",
        "What is {sum}?",
        "What is {sum} equal to?",
        "Calculate {sum}.",
        "Please calculate {sum}",
        "Compute {sum}",
        "Work out {sum}.",
        "How much is {sum}?",
        "{sum} = ?",
        "{sum}",
        "Can you work out {sum} for me?",
        "What do I get for {sum}?",
        "I want to know how much {sum} is.",
        "What is {spoken}?",
        "How much is {spoken}?",
    ),
    "simple_equations": (
        LIBRARY,
        LIBRARY,
        "Solve for {unknown}: {short}",
        "Solve {equation}",
        "Solve {short} for {unknown}.",
        "Solve the equation {equation}.",
        "If {equation}, what is {unknown}?",
        "If {short}, what is {unknown}?",
        "What is {unknown} if {equation}?",
        "Find {unknown}: {equation}",
        "Find {unknown} such that {short}.",
        "{equation}. What is {unknown}?",
        "For which {unknown} is {equation}?",
        "Given that {short}, find the value of {unknown}.",
        "I have the equation {equation}. How much is {unknown}?",
    ),
    "spell_backward": (
        LIBRARY,
        LIBRARY,
        "Spell {word} backward.",
        "Spell {word} backwards",
        "Spell the word {word} backwards.",
        'Spell the word "{word}" backward.',
        'What is "{word}" spelled backwards?',
        "What is {word} backwards?",
        "How do you spell {word} backwards?",
        "Reverse the word {word}.",
        'Reverse the letters of "{word}".',
        "Write {word} in reverse.",
        'Write the word "{word}" backwards.',
        "Can you write {word} backwards for me?",
    ),
    "leg_counting": (
        LIBRARY,
        LIBRARY,
        "How many legs do {animals} have?",
        "How many legs do {animals} have in total?",
        "How many legs do {animals} have together?",
        "How many legs are there if you have {animals}?",
        "If I have {animals}, how many legs is that in total?",
        "Count the legs of {animals}.",
        "I see {animals}. How many legs are there?",
        "There are {animals}. How many legs is that?",
        "What is the total number of legs of {animals}?",
    ),
}
"""Wordings by family. `{sum}` 12 + 30, `{spoken}` 12 plus 30, `{equation}` 3*x + 4 = 19, `{short}` 3x + 4 = 19."""


BEFORE = (
    "Please help me: ",
    "Hello! ",
    "Hi, ",
    "Quick question: ",
    "I have a question. ",
    "My homework says: ",
    "Here is one for you: ",
    "Let me ask you something. ",
    "My friend wants to know: ",
    "Could you help? ",
    "Tell me: ",
    "Question: ",
)
AFTER = (
    " Thanks!",
    " Please.",
    " Thank you.",
    " I am not sure.",
    " Tell me the answer.",
    " What do you get?",
    " Can you help?",
    " Show your work.",
)
"""What people put around a question. A third of the reworded ones have something before, and a third after."""


def reworded(family: str, entry: Mapping[str, Any]) -> str:
    """The question of an entry of reasoning-gym in one of its family's wordings.

    `entry` has the library's `question` and its `metadata`. `KeyError` for a family without wordings.
    """
    question = str(entry["question"])
    draw = random.Random(int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big"))
    wording = draw.choice(WORDINGS[family])
    if wording == LIBRARY:
        return question
    asked = wording.format(**_PARTS[family](entry["metadata"]))
    before, after = (draw.choice(parts) if draw.random() < 1 / 3 else "" for parts in (BEFORE, AFTER))
    return before + asked + after


def is_wording(question: str, family: str, entry: Any) -> bool:
    """Whether a question is `reworded` of this entry of reasoning-gym."""
    try:
        return family in WORDINGS and reworded(family, entry) == question
    except (KeyError, TypeError, AttributeError):  # an entry of another form has no wording
        return False


def listed(things: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(things[:-1]), things[-1])))


def _sum(metadata: Mapping[str, Any]) -> dict[str, str]:
    expression = str(metadata["expression"])
    return {"sum": expression, "spoken": expression.replace(" + ", " plus ").replace(" - ", " minus ")}


def _equation(metadata: Mapping[str, Any]) -> dict[str, str]:
    equation = str(metadata["equation"])
    short = re.sub(r"(?<=\d)\*(?=[a-z])", "", equation)
    return {"equation": equation, "short": short, "unknown": str(metadata["variable"])}


def _word(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {"word": str(metadata["word"])}


def _animals(metadata: Mapping[str, Any]) -> dict[str, str]:
    herd = [
        f"{count} {animal if count == 1 else _PLURALS.get(animal, animal + 's')}"
        for animal, count in metadata["animals"].items()
    ]
    return {"animals": listed(herd)}


_PLURALS = {
    "butterfly": "butterflies",
    "deer": "deer",
    "firefly": "fireflies",
    "jellyfish": "jellyfish",
    "leech": "leeches",
    "praying mantis": "praying mantises",
    "sheep": "sheep",
    "starfish": "starfish",
    "woodlouse": "woodlice",
}
"""Those that the library makes with an s."""


_PARTS: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
    "chain_sum": _sum,
    "simple_equations": _equation,
    "spell_backward": _word,
    "leg_counting": _animals,
}
