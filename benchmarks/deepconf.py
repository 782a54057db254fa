"""Accuracy and tokens of DeepConf against majority voting and the reference algorithm, on the demo's own model.

    python benchmarks/deepconf.py [--run runs/demo] [--json] [--quick] [--tune] [--slots 256]

Complete traces are recorded once (`deepconf_pool.py`). Each of several runs then shuffles every problem's pool and
plays all algorithms on the same shuffled traces: the first B of them at budget B, so that everything is paired. Ours is
`h1r.scaling` itself on `ReplayEngine`, all problems sharing `--slots` sequences; tokens in flight at a consensus are
counted. Intervals resample problems (95 %). `--tune` compares settings on problems of another seed; the rows are
problems that neither training nor tuning saw. `recorded_votes` are the recorded vote totals of the reference
implementation that our voters reproduce (skipped without that data set: H1R_DATA).
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepconf_pool import Pool, held_out_problems, open_pool, tuning_problems
from deepconf_reference import reference_online
from h1r.common.progress import note, progress, quiet
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import certainly_equivalent, groups_for
from h1r.scaling.deepconf import majority_params
from h1r.scaling.intervals import mean_accuracy, paired_difference, saving
from h1r.scaling.parameters import DeepConf
from h1r.scaling.replay import simulate_many
from h1r.scaling.voting import vote
from h1r.verify import VerifierPool

Array = NDArray[np.float64]
BUDGETS = (16, 32, 64, 128, 256, 512)
TUNING_BUDGETS = (64, 128)
ENOUGH = 0.4
"""Share of tokens that a setting has to save at every tuning budget."""
RECORDED = (
    Path(os.environ.get("H1R_DATA", Path(__file__).parents[2] / "shared" / "data"))
    / "deepconf_brumo25_answer_conf"
    / "traces.jsonl.gz"
)

WINDOW = 8
CHOSEN = {"warmup": 8, "keep_top": 0.9, "tau": 0.95, "voter": "majority", "warmup_votes": "all"}
"""The lenient share and the tau of Algorithm 2, both as published. `--tune` chose between a warm-up of 8 and 16 and
between equal votes and weighted ones; among shares and tau its 300 problems see differences of one answer."""


@dataclass(slots=True)
class Outcome:
    """(problems, runs): whether each answer was correct, and what it cost in tokens."""

    correct: Array
    tokens: Array


Algorithm = Callable[[Sequence[Sequence[Trace]], int], tuple[list[str | None], list[int]]]
"""(shuffled traces of every problem, budget) -> (answers, tokens)."""


def ours(pool: Pool, slots: int, verifier: VerifierPool, **settings: Any) -> Algorithm:
    groups = [groups_for(problem, verifier.verify_many) for problem in pool.problems]
    sampling = SamplingParams(confidence_window=settings.pop("window", WINDOW))

    def run(traces: Sequence[Sequence[Trace]], budget: int) -> tuple[list[str | None], list[int]]:
        params = (
            DeepConf(budget=budget, sampling=sampling, **settings) if settings else majority_params(budget, sampling)
        )
        solutions = simulate_many(traces, params, slots=slots, extract=_bare, groups=groups)
        return [solution.answer for solution in solutions], [solution.tokens_total for solution in solutions]

    return run


def reference(confidence_percentile: float, warmup: int = 16, window: int = WINDOW) -> Algorithm:
    def run(traces: Sequence[Sequence[Trace]], budget: int) -> tuple[list[str | None], list[int]]:
        found = [reference_online(one, budget, warmup, confidence_percentile, window) for one in traces]
        return [answer for answer, _ in found], [tokens for _, tokens in found]

    return run


def play(pool: Pool, algorithm: Algorithm, budget: int, runs: int) -> Outcome:
    """`runs` runs at one budget. Run r shuffles every pool in the same way for every algorithm and budget."""
    correct, tokens = [], []
    for number in range(runs):
        shuffled = []
        for index, traces in enumerate(pool.traces):
            order = list(range(len(traces)))
            random.Random(1_000 * number + index).shuffle(order)
            shuffled.append([traces[j] for j in order[:budget]])
        answers, spent = algorithm(shuffled, budget)
        correct.append(pool.grade(answers))
        tokens.append(np.array(spent, dtype=np.float64))
    return Outcome(np.stack(correct, axis=1), np.stack(tokens, axis=1))


def row(name: str, family: str, budget: int, found: Outcome, base: Outcome, of: NDArray[np.bool_]) -> dict[str, Any]:
    """One line of the result: over the problems in `of`, against majority at the same budget."""
    mine, theirs = found.correct[of].mean(axis=1), base.correct[of].mean(axis=1)
    accuracy = mean_accuracy(mine.tolist(), samples=found.correct.shape[1])
    difference = paired_difference(theirs.tolist(), mine.tolist())
    saved = saving(found.tokens[of].mean(axis=1).tolist(), base.tokens[of].mean(axis=1).tolist())
    return {
        "algorithm": name, "family": family, "budget": budget, "problems": int(of.sum()),
        "runs": found.correct.shape[1], "accuracy": accuracy.value, "accuracy_interval": list(accuracy.interval),
        "tokens_per_problem": float(found.tokens[of].mean()),
        "token_saving": saved.value, "token_saving_interval": list(saved.interval),
        "accuracy_difference": difference.value, "accuracy_difference_interval": list(difference.interval),
    }  # fmt: skip


def compare(pool: Pool, algorithms: dict[str, Algorithm], budgets: Sequence[int], runs: int) -> list[dict[str, Any]]:
    """Rows of every algorithm, budget and family; the others are measured against the first algorithm."""
    families = np.array([problem.family for problem in pool.problems])
    rows = []
    with progress("Compare", total=len(budgets) * len(algorithms), unit="run") as bar:
        for budget in budgets:
            found = {}
            for name, algorithm in algorithms.items():
                found[name] = play(pool, algorithm, budget, runs)
                bar.advance()
            base = next(iter(found.values()))
            for name, outcome in found.items():
                for family in ("all", *sorted(set(families))):
                    of = np.ones(len(families), dtype=bool) if family == "all" else families == family
                    rows.append(row(name, str(family), budget, outcome, base, of))
    return rows


def tune(pool: Pool, slots: int, runs: int, verifier: VerifierPool) -> list[dict[str, Any]]:
    """Every setting of a grid at two budgets: of those that save `ENOUGH` tokens at each, the one first whose worse
    difference from majority is the best, and of equals the cheapest."""
    everyone = np.ones(len(pool.problems), dtype=bool)
    agreements = [(tau, "share") for tau in (0.75, 0.85, 0.95)] + [(tau, "lead") for tau in (0.9, 0.95, 0.99)]
    grid = list(itertools.product((8, 16), (0.5, 0.9), agreements, ("majority", "min_window")))
    base = {budget: play(pool, ours(pool, slots, verifier), budget, runs) for budget in TUNING_BUDGETS}
    rows = []
    with progress("Tune", total=len(grid), unit="setting") as bar:
        for warmup, keep_top, (tau, consensus), voter in grid:
            settings = {"warmup": warmup, "keep_top": keep_top, "tau": tau, "consensus": consensus, "voter": voter}
            algorithm = ours(pool, slots, verifier, **{**CHOSEN, **settings})
            found = [
                row("deepconf", "all", budget, play(pool, algorithm, budget, runs), base[budget], everyone)
                for budget in TUNING_BUDGETS
            ]
            rows.append(
                settings
                | {f"difference_{one['budget']}": one["accuracy_difference"] for one in found}
                | {f"saving_{one['budget']}": one["token_saving"] for one in found}
            )
            bar.advance()

    def rank(one: dict[str, Any]) -> tuple[bool, float, float]:
        savings = [one[f"saving_{budget}"] for budget in TUNING_BUDGETS]
        worst = min(one[f"difference_{budget}"] for budget in TUNING_BUDGETS)
        return min(savings) < ENOUGH, -worst, -sum(savings)

    return sorted(rows, key=rank)


def recorded_votes() -> dict[str, Any]:
    """How many recorded tables of vote totals our voters recompute, and what grouping by mathematics changes."""
    statistics: dict[str, Callable[[Sequence[float]], float]] = {
        "min_conf": min, "max_conf": max, "avg_conf": lambda values: sum(values) / len(values),
    }  # fmt: skip
    tables = agreeing = traces = merged = 0
    right = {"strings": 0, "mathematics": 0}
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    for problem in problems:
        traces += len(problem["traces"])
        for (name, statistic), status in itertools.product(statistics.items(), ("completed", "truncated", "combined")):
            if name == "min_conf" and status != "completed":
                continue  # made with tokens around the answer that were not recorded
            wanted = ("completed", "truncated") if status == "combined" else (status,)
            chosen = [t for one in wanted for t in problem["traces"] if t["status"] == one]
            weights = [statistic(t["conf"]) if t["conf"] else 0.0 for t in chosen]
            found = vote([t["answer"] for t in chosen], weights, AnswerGroups(str.__eq__))
            winner, totals = problem["recorded_votes"][name][f"{status}_traces"]
            same = found.totals.keys() == totals.keys() and np.allclose(
                list(found.totals.values()), [totals[a] for a in found.totals], rtol=1e-12, atol=0
            )
            tables += 1
            agreeing += bool(same and found.answer == winner)
        answers = [t["answer"] for t in problem["traces"]]
        weights = [sum(t["conf"]) / len(t["conf"]) if t["conf"] else 0.0 for t in problem["traces"]]
        by_string = vote(answers, weights, AnswerGroups(str.__eq__))
        by_mathematics = vote(answers, weights, AnswerGroups(certainly_equivalent))
        merged += len(by_string.totals) - len(by_mathematics.totals)
        for kind, outcome in (("strings", by_string), ("mathematics", by_mathematics)):
            right[kind] += outcome.answer is not None and certainly_equivalent(problem["ground_truth"], outcome.answer)
    return {
        "traces": traces, "tables": tables, "tables_recomputed": agreeing, "votes": len(problems),
        "correct_by_strings": right["strings"], "correct_by_mathematics": right["mathematics"],
        "groups_merged": merged,
    }  # fmt: skip


def _bare(text: str) -> str | None:
    return text or None


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| budget | family | algorithm | accuracy | difference | tokens per problem | saved |", "|" + "---|" * 7]
    for one in rows:
        low, high = one["accuracy_difference_interval"]
        saved_low, saved_high = one["token_saving_interval"]
        lines.append(
            f"| {one['budget']} | {one['family']} | {one['algorithm']} | {one['accuracy']:.3f} "
            f"| {one['accuracy_difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {one['tokens_per_problem']:,.0f} "
            f"| {one['token_saving']:.3f} [{saved_low:.3f}, {saved_high:.3f}] |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run of `h1r demo`")
    parser.add_argument("--json", action="store_true", help="print rows as JSON, and no progress")
    parser.add_argument("--quick", action="store_true", help="fewer problems and runs: under ten minutes")
    parser.add_argument("--tune", action="store_true", help="try settings on problems of another seed, and stop")
    parser.add_argument("--slots", type=int, default=256, help="sequences decoded together")
    parser.add_argument("--problems", type=int, default=200, help="the run's held-out ones first, then others unseen")
    parser.add_argument("--runs", type=int, help="shuffles of every pool; default 4, quick 2")
    arguments = parser.parse_args()
    quiet(arguments.json)
    number, size = (48, 512) if arguments.quick else (arguments.problems, 576)
    runs = arguments.runs or (2 if arguments.quick else 4)
    place = arguments.run / "benchmark"
    try:
        with VerifierPool() as verifier:
            if arguments.tune:
                pool = open_pool(place / "tuning.npz", arguments.run, tuning_problems(arguments.run, 300), 192)
                found = tune(pool, arguments.slots, arguments.runs or 1, verifier)
                print(json.dumps(found if arguments.json else found[:20], indent=1))
                return
            name = "held_out_quick.npz" if arguments.quick else "held_out.npz"
            pool = open_pool(place / name, arguments.run, held_out_problems(arguments.run, number), size)
            variants: dict[str, dict[str, Any]] = {
                "majority": {},
                "deepconf": CHOSEN,
                "deepconf, consensus by lead": {**CHOSEN, "consensus": "lead"},
                "deepconf, fixed budget": {**CHOSEN, "tau": None},
            }
            algorithms = {name: ours(pool, arguments.slots, verifier, **of) for name, of in variants.items()}
            algorithms |= {f"reference, percentile {percentile}": reference(percentile) for percentile in (10, 90)}
            rows = compare(pool, algorithms, BUDGETS, runs)
    except UserError as error:
        sys.exit(f"deepconf: {error}")
    votes = recorded_votes() if RECORDED.exists() else None
    if arguments.json:
        print(json.dumps([*rows, *([{"recorded_votes": votes}] if votes else [])], indent=1))
        return
    print(table([one for one in rows if one["family"] == "all"]))
    note("")
    print(table([one for one in rows if one["family"] != "all" and one["budget"] in (64, 512)]))
    print(f"\nrecorded votes of the reference implementation: {votes or f'skipped, {RECORDED} is absent'}")


if __name__ == "__main__":
    main()
