"""Everyday wordings of generated problems: the same question as a person would ask it.

reasoning-gym has one template a family, sometimes two or three. A model that has seen no other reads nothing else:
asked "What is 12 + 30 - 7?", one that adds well answers something else. With `wordings = "everyday"` a source asks each
of its problems in one of the ways below, the library's own among them. Which one depends on the library's question
alone, so that one problem has one wording wherever it is drawn, and copies are copies. Reference, scorer and worked
traces stay those of the library's question.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from h1r.common.prose import counted, listing

Parts = Mapping[str, str | tuple[str, ...]]
"""What wordings name; one of several ways to write it is drawn."""
LIBRARY = "{library}"
"""Stands for the library's own question. Listed twice: a fifth or so of a family keeps its wording."""

WORDINGS: dict[str, tuple[str, ...]] = {
    "chain_sum": (
        LIBRARY,
        LIBRARY,
        "<What is|How much is|Calculate|Please calculate|Compute|Work out|Evaluate> {sum}<|.|?>",
        "<What is|How much is> {sum}?",
        "What is {sum} equal to?",
        "{sum} = ?",
        "{sum}",
        "{sum} =",
        "Can you <work out|compute|calculate> {sum} for me?",
        "<What do I get for|What is the result of|What is the value of> {sum}?",
        "I <want|need> to know <how much|what> {sum} is.",
        "<What is|How much is|Calculate|Work out> {spoken}<|.|?>",
        "<Please add up|Determine|Solve|Give the value of> {sum}<|.>",
        "{sum} <is|gives|equals> <what|how much>?",
        "<What|How much> does {sum} <give|make|come to|add up to>?",
        "I have <to work out|to compute|> {sum}. <What is it|How much is it|What is the answer>?",
        "<Here is a sum|My sum is|The task is>: {sum}<|.>",
    ),
    "simple_equations": (
        LIBRARY,
        LIBRARY,
        "Solve for {unknown}: <{short}|{equation}>",
        "Solve <|the equation ><{equation}|{short}><|.| for {unknown}.>",
        "If <{equation}|{short}>, <what is {unknown}|how much is {unknown}|find {unknown}><?|.>",
        "What is {unknown} <if|when> <{equation}|{short}>?",
        "Find {unknown}: <{equation}|{short}>",
        "Find {unknown} such that <{equation}|{short}>.",
        "<{equation}|{short}><.|;> <What|How much> is {unknown}?",
        "For which {unknown} is <{equation}|{short}>?",
        "Given that <{equation}|{short}>, find <the value of |>{unknown}.",
        "I have <the equation |>{equation}. <How much|What> is {unknown}?",
    ),
    "spell_backward": (
        LIBRARY,
        LIBRARY,
        "<Spell|Please spell|Write> <|the word >{word} <backward|backwards><|.>",
        '<Spell|Write> <|the word >"{word}" <backward|backwards><|.>',
        'What is <{word}|"{word}"> <|spelled >backwards?',
        "How <do you spell|is> {word} <backwards|in reverse>?",
        'Reverse <|the word ><{word}|"{word}">.',
        'Reverse the letters of <|the word ><{word}|"{word}">.',
        "Write {word} in reverse.",
        "Can you <write|spell> {word} backwards<| for me>?",
        "<Flip|Mirror|Invert> <|the word |the letters of >{word}<|.>",
        "<What does|How would> {word} <look|read> <backwards|in a mirror|written backwards>?",
        "<Take|Here is|My word is> {word}. <Reverse it.|Spell it backwards.|What is it backwards?>",
        "<Put|Write|Type> the letters of {word} in <the opposite|the other|reversed> order.",
        "{word} <backwards|in reverse|reversed>, please.",
        "<Start|Begin> with the last letter<| and> <spell|write> {word}.",
        "I <need|want> <|the word ><{word}|'{word}'> <backwards|reversed|the other way round>.",
        "If <|the word ><{word}|'{word}'> is <read|written> backwards, what <is it|do we see>?",
        "<Show|Print> {word} with its letters <backwards|the other way round|reversed>.",
        "<Which|What> <letters|word> do I <see|get> if I <read|write> {word} backwards?",
    ),
    "leg_counting": (
        LIBRARY,
        LIBRARY,
        "How many legs do {animals} have<| in total| together| altogether>?",
        "How many legs are there <if you have|with> {animals}?",
        "If I have {animals}, how many legs is that<| in total>?",
        "<Count|Add up> the legs of {animals}.",
        "I <see|have> {animals}. How many legs <are there|is that>?",
        "There are {animals}. How many legs <is that|are there>?",
        "What is the <total |>number of legs of {animals}?",
        "<We have|Here are|My uncle has> {animals}. <How many legs do they have?|Count their legs.>",
        "Together, how many legs <do|would> {animals} have?",
    ),
    "products": (
        LIBRARY,
        LIBRARY,
        "<What is|How much is|Calculate|Compute|Work out|Evaluate> <{product}|{times}|{cross}><|.|?>",
        "<{product}|{cross}> = ?",
        "<{product}|{cross}>",
        "{product} =",
        "Multiply {factors}.",
        "What is the product of {factors}?",
        "Can you <work out|compute|calculate> <{product}|{times}>?",
    ),
    "gcd": (
        LIBRARY,
        LIBRARY,
        "What is the <greatest common divisor|GCD|gcd|highest common factor> of {and_numbers}?",
        "<Find|Give|Compute|Calculate> the <greatest common divisor|GCD|highest common factor> of {and_numbers}.",
        "gcd({numbers})<| = ?>",
        "What is the largest number that divides {and_numbers}?",
    ),
    "lcm": (
        LIBRARY,
        LIBRARY,
        "What is the <least common multiple|LCM|lcm|smallest common multiple> of {and_numbers}?",
        "<Find|Give|Compute|Calculate> the <least common multiple|LCM|smallest common multiple> of {and_numbers}.",
        "lcm({numbers})<| = ?>",
        "What is the smallest number that {and_numbers} divide?",
    ),
    "count_bits": (
        LIBRARY,
        LIBRARY,
        "How many <1 bits|1s|ones> <are in|are there in> <the binary form of {number}|{number} in binary>?",
        "How many <1 bits|1s|ones> does {number} have in binary?",
        "Count the <1 bits|1s|ones> in the binary <form|representation> of {number}.",
        "Write {number} in binary and count the 1s.",
    ),
    "prime_factorization": (
        LIBRARY,
        LIBRARY,
        "<Factor|Factorise|Factorize> {number}<| into primes>.",
        "What is the prime factorization of {number}?",
        "What are the prime factors of {number}?",
        "<Find|Give|Write down> the <prime factors|prime factorization> of {number}.",
        "Write {number} as a product of primes.",
    ),
    "coin_flip": (
        LIBRARY,
        LIBRARY,
        "What is the <probability|chance> of {wanted} heads in {flips} <coin flips|flips of a fair coin>?",
        "I flip a <fair |>coin {flips} times. What is the <probability|chance> of {wanted} heads?",
        "How likely are {wanted} heads in {flips} <coin flips|flips of a coin>?",
        "If a coin is flipped {flips} times, how likely are {wanted} heads?",
    ),
    "letter_counting": (
        LIBRARY,
        LIBRARY,
        'How many <times is {letter}|{letter}s are> in "{text}"?',
        'How often <does|do I find> the letter {letter} <appear|occur> in "{text}"?',
        "Count the letter {letter} in: {text}",
        "How many <{letter}'s|letters {letter}> are <|there >in <{text}|'{text}'>?",
        'Count how often {letter} appears in "{text}".',
        "How many times does {letter} appear in: {text}",
    ),
    "number_sorting": (
        LIBRARY,
        LIBRARY,
        "Sort <these numbers |>in {direction} order: {numbers}",
        "<Sort|Order> {numbers} in {direction} order.",
        "<Sort|Order|Arrange> <|these numbers >from {ends}: {numbers}",
        "Put {and_numbers} in {direction} order.",
        "<Put these|Order these numbers|Sort these> <|in order >from {ends}: {numbers}",
        "Sort {numbers} from {ends}.",
        "<Sort|Order> {numbers}, {first} first.",
    ),
    "number_filtering": (
        LIBRARY,
        LIBRARY,
        "{Verb} <the |all |all the |>numbers {side} {limit}: {numbers}",
        "{Verb} <the |all |all the |>numbers {side} {limit} <in|from|of> this list: {numbers}",
        "From {numbers}, {verb} the numbers {side} {limit}.",
    ),
    "simple_geometry": (
        LIBRARY,
        LIBRARY,
        "A {polygon} has the angles {angles}. <What is the last one|How big is the last angle|Find the last angle>?",
        "<Find|Give> the missing angle of a {polygon} <with angles|whose other angles are> {angles}.",
        "What is the missing angle of a {polygon} with angles {angles}?",
        "{rest} angles of a {polygon} are {angles}. <What is|How big is> the other one?",
    ),
    "time_intervals": (
        LIBRARY,
        LIBRARY,
        "How long is it from {start} to {end}? <Answer in|Write it as> {form}.",
        "How much time <passes|is there> <between {start} and {end}|from {start} to {end}>? <Answer in|Give> {form}.",
        "A film <runs|lasts> from {start} to {end}. How long is it? <Answer in|Write> {form}.",
        "I <slept|worked|walked> from {start} to {end}. How long is that in {form}?",
    ),
    "word_sequence_reversal": (
        LIBRARY,
        LIBRARY,
        "<Reverse|Turn around> <this list|the list|the order>: {words}",
        "Reverse the order of <these|the> words: {words}",
        "<Write|List> these words <in reverse order|from last to first>: {words}",
        "Say {words} in reverse order.",
    ),
    "aiw": (
        LIBRARY,
        "{name} has {men} and {women}.{all} How many {kin} does {man} have?",
        "{name} has {women} and {men}.{all} How many {kin} <does {man} have|has {man}>?",
        "{name} has {men} and {women}.{all} <Tell me|I want to know> how many {kin} {man} has.",
    ),
    "family_relationships": (
        LIBRARY,
        LIBRARY,
        "{story} <Who|What> is {first} to {second}?",
        "{story} How is {first} related to {second}?",
        "{story} What relation is {first} to {second}?",
        "{story} {first} is whose relative, seen from {second}? Answer in one word.",
    ),
}
"""Wordings by family; `<this|that>` is drawn, and so is how a formula is written: {sum} 12 + 30 or 12+30, {spoken} 12
plus 30, {equation} 3*x + 4 = 19 or 3*x+4=19, {short} 3x + 4 = 19 or 3x+4=19, {product} 12 * 7 or 12*7."""


_CHOICE = re.compile(r"<([^<>]*)>")

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
    parts = None if wording == LIBRARY else _PARTS[family](entry["metadata"], question)
    if parts is None:
        return question
    chosen = _CHOICE.sub(lambda found: draw.choice(found[1].split("|")), wording)
    written = {name: part if isinstance(part, str) else draw.choice(part) for name, part in parts.items()}
    asked = chosen.format(**written)
    before, after = (draw.choice(said) if draw.random() < 1 / 3 else "" for said in (BEFORE, AFTER))
    if not after and draw.random() < 1 / 4:
        asked = _carelessly(asked, chosen)
    return before + asked + after


def _carelessly(asked: str, wording: str) -> str:
    """Without the capital letter and the full stop, as people type."""
    first = asked[0] if wording.startswith("{") else asked[0].lower()
    return first + asked[1:].removesuffix(".").removesuffix("?")


def is_wording(question: str, family: str, entry: Any) -> bool:
    """Whether a question is `reworded` of this entry of reasoning-gym."""
    try:
        return family in WORDINGS and reworded(family, entry) == question
    except (KeyError, TypeError, AttributeError, ValueError):  # an entry of another form has no wording
        return False


def _with_blanks_or_without(formula: str) -> tuple[str, ...]:
    return (formula, formula, formula.replace(" ", ""))


def _sum(metadata: Mapping[str, Any], _: str) -> Parts:
    expression = str(metadata["expression"])
    spoken = expression.replace(" + ", " plus ").replace(" - ", " minus ")
    return {"sum": _with_blanks_or_without(expression), "spoken": spoken}


def _equation(metadata: Mapping[str, Any], _: str) -> Parts:
    equation = str(metadata["equation"])
    short = re.sub(r"(?<=\d)\*(?=[a-z])", "", equation)
    return {
        "equation": (*_with_blanks_or_without(equation), equation.replace("*", " * ")),
        "short": _with_blanks_or_without(short),
        "unknown": str(metadata["variable"]),
    }


def _word(metadata: Mapping[str, Any], _: str) -> Parts:
    return {"word": str(metadata["word"])}


def _animals(metadata: Mapping[str, Any], _: str) -> Parts:
    herd = [
        f"{count} {animal if count == 1 else _PLURALS.get(animal, animal + 's')}"
        for animal, count in metadata["animals"].items()
    ]
    return {"animals": listing(herd)}


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


def _product(metadata: Mapping[str, Any], _: str) -> Parts:
    expression = str(metadata["expression"])
    return {
        "product": _with_blanks_or_without(expression),
        "times": (expression.replace("*", "times"), expression.replace("*", "multiplied by")),
        "cross": tuple(expression.replace(" * ", sign) for sign in (" x ", "x", " \u00d7 ", "\u00d7")),
        "factors": listing(expression.split(" * ")),
    }


def _listed(numbers: Sequence[str]) -> Parts:
    return {"numbers": (", ".join(numbers), ", ".join(numbers), ",".join(numbers)), "and_numbers": listing(numbers)}


def _numbers(metadata: Mapping[str, Any], _: str) -> Parts:
    return _listed([str(number) for number in metadata["numbers"]])


def _number(metadata: Mapping[str, Any], _: str) -> Parts:
    return {"number": str(metadata["number"])}


def _flips(metadata: Mapping[str, Any], _: str) -> Parts:
    how = "exactly" if metadata["problem_type"] == "exact" else "at least"
    return {"wanted": f"{how} {metadata['k_heads']}", "flips": str(metadata["num_trials"])}


def _letters(metadata: Mapping[str, Any], _: str) -> Parts:
    return {"letter": str(metadata["target_letter"]), "text": " ".join(metadata["span"])}


def _sorting(metadata: Mapping[str, Any], _: str) -> Parts:
    direction = str(metadata["direction"])
    first, last = ("smallest", "largest") if direction == "ascending" else ("largest", "smallest")
    ends = (f"{first} to {last}", f"{first} to {last}", f"{_ALSO[first]} to {_ALSO[last]}")
    listed = _listed(metadata["original_numbers"])
    return {**listed, "direction": direction, "ends": ends, "first": (first, _ALSO[first])}


_ALSO = {"smallest": "lowest", "largest": "highest"}


def _filtering(metadata: Mapping[str, Any], _: str) -> Parts:
    verb, side = str(metadata["operation"]).split("_")
    return {
        "Verb": verb.title(),
        "verb": verb,
        "side": f"{side} than",
        "limit": str(metadata["filter_value"]),
        **_listed(metadata["original_numbers"]),
    }


def _angles(metadata: Mapping[str, Any], _: str) -> Parts:
    sides, known = metadata["n_sides"], metadata["known_angles"]
    written = ([f"{angle:g}°" for angle in known], [f"{angle:g} degrees" for angle in known], [f"{a}°" for a in known])
    angles = tuple(map(listing, written))
    polygon = {3: "triangle", 4: "quadrilateral", 5: "pentagon", 6: "hexagon"}.get(sides, f"{sides}-gon")
    rest = {2: "Two", 3: "Three", 4: "Four", 5: "Five"}.get(sides - 1, "All other")
    return {"polygon": polygon, "angles": angles, "rest": rest}


_CLOCK = re.compile(r"\b\d\d:\d\d(?::\d\d(?:\.\d{3})?)?")


def _interval(metadata: Mapping[str, Any], question: str) -> Parts | None:
    """None where the question has dates."""
    if not str(metadata["task_type"]).startswith("time"):
        return None
    start, end = _CLOCK.findall(question)
    return {"start": start, "end": end, "form": str(metadata["expected_format"])}


def _words(metadata: Mapping[str, Any], _: str) -> Parts:
    return {"words": ", ".join(metadata["words"])}


_ASKED = re.compile(
    r"(?P<kin>female friends|sisters) does (?:(?P<sister>\w++)'s brother|(?P<man>\w++), a male friend of \w++,) have\?"
)
_COUNTED = re.compile(r"(?<!\d)(\d++) ((?:fe)?male friend|brother|sister)s")


def _circle(_: Mapping[str, Any], question: str) -> Parts | None:
    """None where the question is about somebody else's brother."""
    story, asked = question.split(" How many ", 1)
    found, name = _ASKED.fullmatch(asked), story.partition(" ")[0]
    if found is None or found["sister"] not in (None, name):
        return None
    counts = {noun: int(count) for count, noun in _COUNTED.findall(story)}
    men, women = sorted(counts, key=lambda noun: noun in ("female friend", "sister"))
    friend = found["man"]
    brothers = (f"{name}'s brother", "her brother")
    friends = (f"{friend}, one of the male friends,", f"{friend}, a male friend of hers,")
    return {
        "name": name,
        "men": counted(counts[men], men),
        "women": counted(counts[women], women),
        "kin": found["kin"],
        "all": " They are all friends with each other." if friend else "",
        "man": friends if friend else brothers,
    }


def _relatives(metadata: Mapping[str, Any], question: str) -> Parts:
    story = question.partition("\n\n")[0]
    return {"story": story, "first": str(metadata["person1"]), "second": str(metadata["person2"])}


_PARTS: dict[str, Callable[[Mapping[str, Any], str], Parts | None]] = {
    "chain_sum": _sum,
    "simple_equations": _equation,
    "spell_backward": _word,
    "leg_counting": _animals,
    "products": _product,
    "gcd": _numbers,
    "lcm": _numbers,
    "count_bits": _number,
    "prime_factorization": _number,
    "coin_flip": _flips,
    "letter_counting": _letters,
    "number_sorting": _sorting,
    "number_filtering": _filtering,
    "simple_geometry": _angles,
    "time_intervals": _interval,
    "word_sequence_reversal": _words,
    "family_relationships": _relatives,
    "aiw": _circle,
}
"""From the metadata of an entry and the library's question to what its family's wordings name."""
