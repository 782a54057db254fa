"""letter_counting, spell_backward, word_sequence_reversal, number_sorting, number_filtering: letters, words, lists."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator

from h1r.data.solvers.base import Worked
from h1r.records import Problem


def letter_counting(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Spelled with a count behind each letter that is meant; each word with a running count, or with its own count and
    their sum; only the words that have the letter."""
    found = re.match(r'(?>(?s:.*?)letter "(.)" appear in the text: ")(.*)"\?$', problem.question)
    if found is None:
        return
    letter, words = found.group(1), found.group(2).split()
    counts = [word.lower().count(letter) for word in words]
    answer = str(sum(counts))
    running = list(itertools.accumulate(counts))
    yield Worked([f"count {letter}", *_marked(words, letter), f"= {answer}"], answer)
    total = " + ".join(str(count) for count in counts if count)
    closing = [f"{total} = {answer}"] if "+" in total else []
    yield Worked([f"{_spelled(word)}: {so_far}" for word, so_far in zip(words, running, strict=True)], answer)
    yield Worked([f"{_spelled(word)}: {count}" for word, count in zip(words, counts, strict=True)] + closing, answer)
    having = [(word, count) for word, count in zip(words, counts, strict=True) if count]
    if having:
        yield Worked([f"{_spelled(word)}: {count}" for word, count in having] + closing, answer)
        yield Worked([f"{word}: {count}" for word, count in having] + closing, answer)


def _spelled(word: str) -> str:
    return " ".join(word.lower())


def _marked(words: list[str], letter: str) -> Iterator[str]:
    """The words spelled, and behind each of the letters that are counted the count so far: `t1 h e`."""
    count = 0
    for word in words:
        spelled = []
        for one in word.lower():
            count += one == letter
            spelled.append(f"{one}{count}" if one == letter else one)
        yield " ".join(spelled)


def spell_backward(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Spelled out and read back; numbered from the end; in two halves; in pieces of three."""
    found = re.search(r": (\S+)$", problem.question.strip())
    if found is None:
        return
    word = found.group(1)
    back = word[::-1]
    yield Worked([" ".join(word), " ".join(back)], back)
    yield Worked([" ".join(f"{at} {letter}" for at, letter in lettered) for lettered in _numbered(word)], back)
    for size in (3, 2):
        if len(word) > size:
            pieces = [word[at : at + size] for at in range(0, len(word), size)]
            yield Worked([" ".join(pieces), " ".join(piece[::-1] for piece in reversed(pieces))], back)


def _numbered(word: str) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    forward = list(enumerate(word, 1))
    return forward, forward[::-1]


def word_sequence_reversal(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Numbered and read from the end; taken from the end one by one; each put before the others."""
    found = re.search(r"list of words: (.*)$", problem.question.strip())
    if found is None:
        return
    words = found.group(1).split(", ")
    answer = ", ".join(reversed(words))
    numbered = [f"{at} {word}" for at, word in enumerate(words, 1)]
    yield Worked([", ".join(numbered), ", ".join(reversed(numbered))], answer)
    yield Worked(numbered[::-1], answer)
    yield Worked([*numbered, *numbered[::-1]], answer)
    yield Worked([", ".join(reversed(words[: count + 1])) for count in range(len(words))], answer)


def number_sorting(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Picking the least (or greatest) again and again; inserting one by one; merging pairs."""
    found = re.search(r"in (ascending|descending) order: (.*)$", problem.question.split("\n")[0])
    if found is None:
        return
    down = found.group(1) == "descending"
    numbers = found.group(2).split(", ")
    ordered = sorted(numbers, key=float, reverse=down)
    answer = str(ordered)
    word = "max" if down else "min"
    yield Worked([f"{word} {' '.join(rest)}: {pick}" for rest, pick in _selections(numbers, down)], answer)
    yield Worked(
        [" ".join(sorted(numbers[:count], key=float, reverse=down)) for count in range(1, len(numbers) + 1)], answer
    )
    yield Worked(_merges(numbers, down), answer)
    below = [n for n in ordered if float(n) < 0]
    above = [n for n in ordered if float(n) >= 0]
    if below and above:
        yield Worked([f"< 0: {' '.join(below)}", f">= 0: {' '.join(above)}"], answer)


def _selections(numbers: list[str], down: bool) -> Iterator[tuple[list[str], str]]:
    rest = list(numbers)
    while rest:
        pick = (max if down else min)(rest, key=float)
        yield list(rest), pick
        rest.remove(pick)


def _merges(numbers: list[str], down: bool) -> list[str]:
    runs = [[number] for number in numbers]
    lines = []
    while len(runs) > 1:
        runs = [sorted(itertools.chain(*runs[at : at + 2]), key=float, reverse=down) for at in range(0, len(runs), 2)]
        lines.append(" | ".join(" ".join(run) for run in runs))
    return lines or [" ".join(numbers)]


def number_filtering(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Which are kept, and each number compared and kept or dropped; without that, from either end; only the kept, or
    only the dropped, named."""
    found = re.match(
        r"(?>(?s:.*?)(Keep|Remove) all numbers (larger|smaller) than (\S++) in this list: \[)(.*)\]", problem.question
    )
    if found is None:
        return
    keeps, larger, limit = found.group(1) == "Keep", found.group(2) == "larger", found.group(3)
    numbers = re.findall(r"'([^']+)'", found.group(4))
    first_spelling: dict[float, str] = {}
    for number in numbers:
        first_spelling.setdefault(float(number), number)
    verdicts = []
    for number in numbers:
        beyond = float(number) > float(limit) if larger else float(number) < float(limit)
        verdicts.append((number, _sign(float(number), float(limit)), beyond == keeps))
    kept = [first_spelling[float(number)] for number, _, stays in verdicts if stays]
    answer = str(kept)
    lines = [f"{number} {sign} {limit} {'keep' if stays else 'drop'}" for number, sign, stays in verdicts]
    rule = f"keep {'>' if keeps == larger else '<'} {limit}"  # a number that is equal has its own line
    yield Worked([rule, *lines], answer)
    yield Worked(lines, answer)
    yield Worked(lines[::-1], answer)
    for wanted in (True, False):
        some = [line for line, verdict in zip(lines, verdicts, strict=True) if verdict[2] is wanted]
        if some:
            yield Worked(some, answer)


def _sign(a: float, b: float) -> str:
    return ">" if a > b else "<" if a < b else "="
