"""Generated problems for the curation benchmark: questions of five templates, with copies and near copies planted.

A line of the JSONL is {id, question, answer, kind}; `kind` is the truth that a deduplication is measured by:

    new     a problem of its own; many share their template and differ in names and numbers
    copy    an earlier question with other blanks and case
    near    an earlier question with one or two words of courtesy more
"""

from __future__ import annotations

import json
import random
from pathlib import Path

THINGS = ("apples", "pears", "plums", "coins", "stamps", "marbles", "books", "shells", "lemons", "buttons")
PLACES = ("market", "harbour", "school", "station", "garden", "museum", "library", "bakery", "theatre", "castle")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TEMPLATES = (
    "On {day} {who} walks to the {place} with {a} {x} and {b} {y}, trades {c} of the {x} for {y} one by one, and then "
    "finds {d} more {y} on the way home; how many {y} does {who} carry in the evening?",
    "The {place} sold {a} {x} on {day} morning and {b} {x} in the afternoon. If every box holds {c} {x} and {d} {y} "
    "come with each full box, how many {y} were given away?",
    "Let $f(t) = {a}t^2 - {b}t + {c}$ model the number of {x} at the {place}, where $t$ is measured in hours after "
    "{day} noon. What is $f({d})$?",
    "{who} arranges {a} rows of {b} {x} in the {place}, takes away {c} {x} from each row on {day}, and stacks what is "
    "left in piles of {d}; how many {x} do not fit into a full pile?",
    "Two trains leave the {place} on {day}, one with {a} {x} and {b} {y}, the other with {c} {x} and {d} {y}. What is "
    "the positive difference between the numbers of all things they carry?",
)
NAMES = ("Mara", "Jon", "Ayla", "Tariq", "Ines", "Bo")
TAILS = (" Please explain.", " Think carefully.", " Show all work.", " Answer with a number.")


def write_generated(path: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Writes `count` records: 85 % new, 10 % copies, 5 % near copies of earlier ones; returns the counts by kind."""
    rng = random.Random(seed)
    recent: list[tuple[str, str]] = []
    kinds = {"new": 0, "copy": 0, "near": 0}
    with open(path, "w", encoding="utf-8") as lines:
        for number in range(count):
            chance = rng.random()
            kind = "new" if chance < 0.85 or not recent else "copy" if chance < 0.95 else "near"
            if kind == "new":
                question, answer = _new(rng, number)
                if len(recent) < 50_000:
                    recent.append((question, answer))
                else:
                    recent[rng.randrange(len(recent))] = (question, answer)
            else:
                question, answer = rng.choice(recent)
                question = question.replace(" ", "  ").upper() if kind == "copy" else question + rng.choice(TAILS)
            kinds[kind] += 1
            row = {"id": str(number), "question": question, "answer": answer, "kind": kind, "text": question}
            lines.write(json.dumps(row) + "\n")
    return kinds


def _new(rng: random.Random, number: int) -> tuple[str, str]:
    x, y = rng.sample(THINGS, 2)
    values = {
        "who": rng.choice(NAMES), "x": x, "y": y, "place": rng.choice(PLACES), "day": rng.choice(DAYS),
        "a": number + 10, "b": rng.randrange(2, 900), "c": rng.randrange(2, 90), "d": rng.randrange(2, 30),
    }  # fmt: skip
    return rng.choice(TEMPLATES).format(**values), str(rng.randrange(100_000))
