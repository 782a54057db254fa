"""The model of the package beside the demo's, on the four families that both learned: pass@1 with intervals, and the
difference paired by problem.

    python benchmarks/shared_families.py --write                    the problems, which lie beside this file already
    h1r eval runs/demo --model rl --benchmark benchmarks/shared_families.toml --only library --only everyday
    h1r eval h1r:small --benchmark benchmarks/shared_families.toml --out runs/shared
    python benchmarks/shared_families.py runs/demo/eval/benchmarks/rl runs/shared/eval/benchmarks/base [--card]

`--card` keeps the table in `shared_families.md`, with the weights that it is of; `tools/ship_model.py` puts it into the
card of the package's model.

Of each family and way of asking 50 problems that neither recipe draws, neither for training nor for RL nor to be held
out, whatever their wording (`--write` draws both recipes anew). They are as hard as the demo's, whose knobs lie within
those of `recipes/small.toml`: `library` asks as reasoning-gym does, and `everyday` as people do (`h1r.data.wordings`).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from h1r.common.files import read_json
from h1r.common.packaged import packaged
from h1r.config import Recipe, load_recipe
from h1r.config.corpus import GeneratedSource
from h1r.data.curate.io.generated import GeneratedProblems
from h1r.data.wordings import reworded
from h1r.records import Problem, normalise_text
from h1r.report.paired import ProblemOutcome, change
from h1r.scaling.intervals import mean_accuracy

HERE = Path(__file__).resolve().parent
PROBLEMS = HERE / "shared_families.jsonl"
CARD = HERE / "shared_families.md"
WAYS = ("library", "everyday")
EACH = 50
SEED = 20_260_102
DRAWS = 100_000
"""Of a family, before it counts as used up."""


def demo_sources() -> list[GeneratedSource]:
    return [one for one in _recipe("tiny").corpus.sources if isinstance(one, GeneratedSource)]


def drawn() -> set[str]:
    """The library's wording of every problem that either recipe draws."""
    from h1r.data.curate.io.drawn import draw_problems

    found = set()
    for recipe in map(_recipe, ("tiny", "small")):
        splits = draw_problems(recipe.problems, recipe.corpus, [])
        for item in (*splits.held_out, *splits.train, *splits.rl):
            found.add(_library(item.problem))
    return found


def new_problems(source: GeneratedSource, seen: set[str]) -> list[dict[str, str]]:
    """Rows of one family; `seen` gets what is in them. Ends the program where the recipes leave too few."""
    rows: list[dict[str, str]] = []
    left = dict.fromkeys(WAYS, EACH)
    for problem in itertools.islice(GeneratedProblems(source, SEED).problems(), DRAWS):
        if (content := _library(problem)) in seen:
            continue
        library = str(problem.metadata["entry"]["question"])
        everyday = reworded(source.family, problem.metadata["entry"])
        way = "library" if left["library"] else "everyday"
        if way == "everyday" and everyday == library:
            continue
        seen.add(content)
        left[way] -= 1
        rows.append(
            {
                "id": f"{source.family}-{way}-{EACH - left[way]}", "family": source.family, "wording": way,
                "question": (library if way == "library" else everyday), "answer": problem.answer,
            }
        )  # fmt: skip
        if not any(left.values()):
            return rows
    sys.exit(
        f"{source.family}: {DRAWS:,} draws left {sum(left.values())} of {2 * EACH} problems open "
        "that neither recipe draws; widen its knobs here, or ask fewer"
    )


def _library(problem: Problem) -> str:
    return normalise_text(problem.metadata["entry"]["question"])


def _recipe(name: str) -> Recipe:
    return load_recipe(HERE.parent / "recipes" / f"{name}.toml")


def table(first: Path, second: Path) -> list[str]:
    """Markdown: a row per way of asking and family, one for each way, and one for all. The directories hold the results
    of `h1r eval` of the two models."""
    of = [{way: read_json(directory / f"{way}.json")["outcomes"] for way in WAYS} for directory in (first, second)]
    lines = [
        "| asked | family | the demo's model | `small` | difference, paired |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        families = sorted({row["family"] for row in of[0][way]})
        for family in (*families, None):
            both = [[row for row in each[way] if family in (None, row["family"])] for each in of]
            lines.append(_row(way, "all" if family is None else f"`{family}`", *both))
    lines.append(_row("both", "all", *([row for way in WAYS for row in each[way]] for each in of)))
    return lines


def _row(way: str, family: str, first: Sequence[dict], second: Sequence[dict]) -> str:
    before, after = (
        [ProblemOutcome(problem_id=r["problem_id"], correct=r["correct"], samples=r["samples"]) for r in each]
        for each in (first, second)
    )
    found = change(before, after, 0.95)
    if found is None or not found.problems == len(before) == len(after):
        raise SystemExit("the two were not asked the same problems")
    gained = f"{100 * found.value:+.1f} [{', '.join(f'{100 * one:+.1f}' for one in found.interval)}]"
    return f"| {way} | {family} | {_score(before)} | {_score(after)} | {gained} |"


def _score(outcomes: Iterable[ProblemOutcome]) -> str:
    each = list(outcomes)
    found = mean_accuracy([one.correct / one.samples for one in each], max(one.samples for one in each))
    return f"{100 * found.value:.1f} [{', '.join(f'{100 * one:.1f}' for one in found.interval)}]"


def weights_of(directory: Path) -> str:
    """The digest of a model's weights, by which the table knows them."""
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="*", type=Path, help="directories of results: the demo's model, then small")
    parser.add_argument("--write", action="store_true", help="draw both recipes, and write the problems")
    parser.add_argument("--card", action="store_true", help=f"keep the table in {CARD.name}")
    options = parser.parse_args()
    if options.write:
        seen = drawn()
        rows = [row for source in demo_sources() for row in new_problems(source, seen)]
        PROBLEMS.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif len(options.results) == 2:
        lines = "\n".join(table(*options.results))
        print(lines)
        if options.card:
            CARD.write_text(
                f"Weights: {weights_of(packaged('models', 'shipped', 'small'))}\n\n{lines}\n", encoding="utf-8"
            )
    else:
        parser.error("give two directories of results, or --write")


if __name__ == "__main__":
    sys.exit(main())
