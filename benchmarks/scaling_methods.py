"""Ways to spend a budget of traces, in one table: accuracy and tokens against majority, paired, with intervals (95 %).

    python benchmarks/scaling_methods.py [--problems 136] [--budget 32] [--json]

Three sets: problems of the recipe of the model in the package that it has not seen, answered by it now; traces of
Qwen2.5-Coder-0.5B-Instruct with the confidence of every token; and reasoning traces of two models of 1.5B on AIME 2024
and 2025 with their lengths and rewards alone, so that only what needs no confidence is priced on them. The last two are
recorded sets (H1R_DATA), and are skipped without. Complete traces are replayed (`h1r.scaling.methods`, `replay`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h1r.config import Recipe, load_recipe
from h1r.engine.protocol import SamplingParams
from h1r.evals.answers import open_checkpoint, recipe_of
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import RolloutPipeline
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract, certainly_equivalent, extract_answer, extract_for, groups_for
from h1r.scaling.deepconf import Solution, majority_baseline, majority_params, problem_seed
from h1r.scaling.intervals import mean_accuracy, paired_difference, saving
from h1r.scaling.methods import METHODS, Recorded, solved
from h1r.scaling.parameters import DeepConf, sampling_of
from h1r.scaling.replay import simulate_many
from h1r.verify import VerifierPool

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).parents[2] / "shared" / "data"))
LENGTHS_ALONE = ("adaptive_consistency", "short_1", "short_3")
"""Methods that ask neither for confidences nor for tokens."""
PROBLEMS_SEED = 2
"""Beside that of the shipped model's recipe."""
Grade = Callable[[int, Trace | None], float]


@dataclass(slots=True)
class Traces:
    """Complete traces of problems. `deepconf`: the settings to price; None where there are no confidences."""

    name: str
    traces: list[list[Trace]]
    extract: list[Extract]
    groups: list[AnswerGroups]
    grade: Grade
    deepconf: DeepConf | None


def rows(found: Traces) -> list[dict[str, Any]]:
    """Majority first, the others paired with it."""
    budget = min(map(len, found.traces))
    recorded = [several[:budget] for several in found.traces]
    replay = {"extract": found.extract, "groups": found.groups, "slots": budget}
    majority = simulate_many(recorded, majority_params(budget, SamplingParams()), **replay)
    named = {"majority": majority}
    if found.deepconf is not None:
        named["deepconf"] = simulate_many(recorded, found.deepconf, **replay)
    problems = [
        Recorded.read(traces, read, of) if found.deepconf is not None else _unsure(traces, read, of)
        for traces, read, of in zip(recorded, found.extract, found.groups, strict=True)
    ]
    for name, method in METHODS.items():
        if found.deepconf is not None or name in LENGTHS_ALONE:
            named[name] = [solved(method, one, index) for index, one in enumerate(problems)]
    return [_row(found, name, solutions, majority, budget) for name, solutions in named.items()]


def _unsure(traces: Sequence[Trace], read: Extract, groups: AnswerGroups) -> Recorded:
    return Recorded(traces, [read(trace.text) for trace in traces], groups)


def _row(
    found: Traces, name: str, solutions: Sequence[Solution], majority: Sequence[Solution], budget: int
) -> dict[str, Any]:
    grades, base = ([found.grade(i, s.answer_trace) for i, s in enumerate(of)] for of in (solutions, majority))
    spent, whole = ([s.tokens_total for s in of] for of in (solutions, majority))
    difference, saved, accuracy = paired_difference(base, grades), saving(spent, whole), mean_accuracy(grades, 1)
    return {
        "set": found.name, "problems": len(grades), "budget": budget, "method": name, "accuracy": accuracy.value,
        "interval": accuracy.interval, "difference": difference.value, "difference_interval": difference.interval,
        "tokens": sum(spent), "saved": saved.value, "saved_interval": saved.interval,
    }  # fmt: skip


def _graded(problems: Sequence[Problem], pool: VerifierPool) -> Grade:
    known: dict[tuple[int, str], float] = {}

    def grade(index: int, trace: Trace | None) -> float:
        if trace is None:
            return 0.0
        key = (index, trace.text)
        if key not in known:
            known[key] = float(pool.verify_many([problems[index]], [trace.text])[0].reward >= 1.0)
        return known[key]

    return grade


def shipped(count: int, budget: int, pool: VerifierPool) -> Traces:
    """New problems of its recipe, answered by the model in the package."""
    from h1r.common.hub import SHIPPED
    from h1r.data.curate.io.drawn import draw_problems

    recipe: Recipe = load_recipe(Path(__file__).parents[1] / "recipes" / "small.toml")
    section = recipe.problems.model_copy(
        update={"seed": recipe.problems.seed + PROBLEMS_SEED, "train": 1, "rl": 1, "held_out": count}
    )
    problems = [item.problem for item in draw_problems(section, recipe.corpus, []).held_out]
    settings = recipe_of(SHIPPED)
    with open_checkpoint(SHIPPED, settings) as (engine, tokenizer):
        pipeline = RolloutPipeline(engine, tokenizer, pool.verify_many, section=settings.rollout)
        solutions = majority_baseline(
            pipeline.engine, pipeline.prompts(problems), budget, sampling_of(settings.scaling),
            seeds=[problem_seed(0, problem.id) for problem in problems],
        )  # fmt: skip
    return Traces(
        "the shipped model", [s.traces for s in solutions], [extract_for(one) for one in problems],
        [groups_for(one, pool.verify_many) for one in problems], _graded(problems, pool),
        DeepConf.from_section(settings.scaling, budget),
    )  # fmt: skip


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _trace(index: int, tokens: list[int], confidences: list[float], text: str, stopped: bool) -> Trace:
    return Trace(0, index, tokens, text, [], [], confidences, "stop" if stopped else "length")


def qwen(pool: VerifierPool) -> Traces:
    """Grade-school questions with a confidence of every token."""
    found = _lines(DATA / "qwen05b_traces" / "traces.jsonl.gz")
    problems = [Problem(f"{row['source']}-{row['idx']}", row["problem"], str(row["gold"])) for row in found]
    traces = [
        [
            _trace(j, one["token_ids"], one["conf_top20"], one["text"], one["finish"] == "stop")
            for j, one in enumerate(row["traces"])
        ]
        for row in found
    ]
    sampling = SamplingParams(confidence_window=64, confidence_top_k=20)
    settings = DeepConf(16, warmup=4, keep_top=0.5, tau=0.95, warmup_votes="all", sampling=sampling)
    return Traces(
        "Qwen2.5-Coder-0.5B", traces, [extract_answer] * len(found),
        [AnswerGroups(certainly_equivalent) for _ in found], _graded(problems, pool), settings,
    )  # fmt: skip


def areal() -> Traces:
    """Long reasoning traces, 32 of each problem, with the rewards that their makers gave."""
    several: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for name in ("aime24__deepscaler-1.5b", "aime24__openmath-nemotron-1.5b", "aime25__openmath-nemotron-1.5b"):
        for row in _lines(DATA / "areal_rollouts" / f"{name}.jsonl.gz"):
            several.setdefault((name, row["task_id"]), []).append(row)
    whole = [of[:32] for of in several.values() if len(of) >= 32]
    traces = [
        [_trace(j, [0] * (row["seqlen"] - row["prompt_len"]), [], row["completion"], True) for j, row in enumerate(of)]
        for of in whole
    ]

    def grade(index: int, trace: Trace | None) -> float:
        return 0.0 if trace is None else float(whole[index][trace.sample_index]["reward"] >= 1.0)

    groups = [AnswerGroups(certainly_equivalent) for _ in whole]
    return Traces("1.5B on AIME", traces, [extract_answer] * len(whole), groups, grade, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", type=int, default=136, help="for the model in the package; 0: none")
    parser.add_argument("--budget", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with VerifierPool() as pool:
        sets = [shipped(options.problems, options.budget, pool)] if options.problems else []
        if (DATA / "qwen05b_traces").is_dir():
            sets += [qwen(pool), areal()]
        table = [row for found in sets for row in rows(found)]
    if options.json:
        print(json.dumps(table))
        return
    print("| set | method | accuracy | against majority | tokens saved |\n|---|---|---|---|---|")
    for row in table:
        low, high = row["difference_interval"]
        least, most = row["saved_interval"]
        print(
            f"| {row['set']}, {row['problems']} problems at {row['budget']} | {row['method']} | {row['accuracy']:.3f} "
            f"| {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {row['saved']:.3f} [{least:.3f}, {most:.3f}] |"
        )


if __name__ == "__main__":
    main()
