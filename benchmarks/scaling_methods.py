"""Methods of test-time scaling in one table: accuracy and tokens against majority, paired, with intervals (95 %).

    python benchmarks/scaling_methods.py [--problems 136] [--budget 32] [--data DIRECTORY] [--online 12] [--json]
    python benchmarks/scaling_methods.py --checkpoint RUN --questions FILE [--engine vllm] [--problems 60] [--budget 16]

Three sets: problems of the recipe of the model in the package that it has not seen, answered by it now; traces of
Qwen2.5-Coder-0.5B-Instruct with the confidence of every token; and reasoning traces of two models of 1.5B on AIME 2024
and 2025 with their lengths and rewards alone, so that only what needs no confidence is priced on them. The last two are
recorded sets (--data, H1R_DATA), and are skipped without. Complete traces are replayed (`h1r.scaling.replay`), all of a
problem at once. Majority at smaller budgets is there for comparison. `bayesian_stopping` has its answer shapes from the
half of the problems that it is not priced on.
`--checkpoint`: one set alone, the first of these questions (.jsonl) answered by this run, checkpoint or hub id, on
either engine. `--online N`: every method also runs on the engine, on the first N problems, and must come to the same as
its replay.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h1r.common.hub import SHIPPED
from h1r.common.scaling_methods import METHODS
from h1r.config import Recipe, ScalingSection, load_recipe
from h1r.engine.protocol import Engine, Prompt, SamplingParams
from h1r.evals.answers import open_checkpoint, recipe_of
from h1r.models.checkpoint import read_config
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import model_directory
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract, certainly_equivalent, extract_answer, extract_for, groups_for
from h1r.scaling.ballot import Method, Solution, sampling_of
from h1r.scaling.deepconf import majority_baseline, majority_params
from h1r.scaling.intervals import mean_accuracy, paired_difference, saving
from h1r.scaling.methods import meets, method_of
from h1r.scaling.replay import simulate_many
from h1r.scaling.run import problem_seed, solve_many
from h1r.train.problems import read_problems
from h1r.verify import VerifierPool

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).parents[2] / "shared" / "data"))
PROBLEMS_SEED = 2
"""Beside that of the shipped model's recipe."""
Grade = Callable[[int, Trace | None], float]


@dataclass(slots=True)
class Traces:
    """Complete traces of problems. `section`: the settings to price. `has`: which lists of a token the traces have."""

    name: str
    traces: list[list[Trace]]
    extract: list[Extract]
    groups: list[AnswerGroups]
    grade: Grade
    section: ScalingSection
    has: frozenset[str]


def rows(found: Traces) -> list[dict[str, Any]]:
    """Majority first, the others paired with it."""
    budget = min(map(len, found.traces))
    majority = _replayed(found, majority_params(budget, SamplingParams()), range(len(found.traces)), budget)
    named = {"majority": majority}
    for fewer in (2, 4, 8, 16):
        if fewer < budget:
            params = majority_params(fewer, SamplingParams())
            named[f"majority of {fewer}"] = _replayed(found, params, range(len(majority)), budget)
    for name in ("deepconf", *sorted(set(METHODS) - {"majority", "deepconf", "bayesian_stopping"})):
        if meets(METHODS.require(name), found.has):
            named[name] = _replayed(found, method_of(found.section, budget, name), range(len(majority)), budget)
    named["bayesian_stopping"] = _with_shapes(found, majority, budget)
    return [_row(found, name, solutions, majority, budget) for name, solutions in named.items()]


def _replayed(found: Traces, method: Method, which: Sequence[int], budget: int) -> list[Solution]:
    return [
        simulate_many([found.traces[i][:budget]], method, extract=found.extract[i], groups=[found.groups[i]])[0]
        for i in which
    ]


def _with_shapes(found: Traces, majority: Sequence[Solution], budget: int) -> list[Solution]:
    """Of every other problem, with the votes of those between them as shapes, and the other way round."""
    solutions: dict[int, Solution] = {}
    for half in (0, 1):
        votes = [list(s.vote.totals.values()) for s in majority[1 - half :: 2] if s.vote.totals]
        method = method_of(found.section, budget, "bayesian_stopping", shapes=votes)
        which = range(half, len(majority), 2)
        solutions.update(zip(which, _replayed(found, method, which, budget), strict=True))
    return [solutions[i] for i in range(len(majority))]


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


def new_problems(count: int) -> list[Problem]:
    """Of the shipped model's recipe, with another seed."""
    from h1r.data.curate.io.drawn import draw_problems

    recipe: Recipe = load_recipe(Path(__file__).parents[1] / "recipes" / "small.toml")
    section = recipe.problems.model_copy(
        update={"seed": recipe.problems.seed + PROBLEMS_SEED, "train": 1, "rl": 1, "held_out": count}
    )
    return [item.problem for item in draw_problems(section, recipe.corpus, []).held_out]


def answered(
    name: str, checkpoint: str, problems: Sequence[Problem], budget: int, pool: VerifierPool, online: int, kind: str
) -> Traces:
    """Problems answered by a checkpoint now, on an engine of this kind, in float32. On another than the native engine
    no trace can be stopped in a loop."""
    overrides = {} if kind == "native" else {"engine.kind": kind, "engine.dtype": "float32"}
    settings = recipe_of(checkpoint, overrides)
    has = {"confidences", "logprobs"} | ({"token_ids"} if kind == "native" else set())
    with open_checkpoint(checkpoint, settings) as (engine, tokenizer):
        pipeline = RolloutPipeline(engine, tokenizer, pool.verify_many, section=settings.rollout)
        prompts, seeds = pipeline.prompts(problems), [problem_seed(0, problem.id) for problem in problems]
        solutions = majority_baseline(pipeline.engine, prompts, budget, sampling_of(settings.scaling), seeds=seeds)
        found = Traces(
            name, [s.traces for s in solutions], [extract_for(one) for one in problems],
            [groups_for(one, pool.verify_many) for one in problems], _graded(problems, pool), settings.scaling,
            frozenset(has),
        )  # fmt: skip
        if online:
            votes = [list(s.vote.totals.values()) for s in solutions[online:] if s.vote.totals]
            for one in METHODS:
                if not meets(METHODS.require(one), found.has):
                    continue
                options = {"shapes": votes} if one == "bayesian_stopping" else {}
                method = method_of(settings.scaling, budget, one, **options)
                _check_online(found, method, pipeline.engine, prompts[:online], seeds[:online], one)
    return found


def _check_online(
    found: Traces, method: Method, engine: Engine, prompts: Sequence[Prompt], seeds: Sequence[int], name: str
) -> None:
    """One problem after the other, so that all of its traces begin together as in the replay."""
    differ = []
    for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        real = solve_many(engine, [prompt], method, seeds=[seed], extract=found.extract[i], groups=[found.groups[i]])[0]
        replayed = _replayed(found, method, [i], method.budget)[0]
        of_both = [(s.answer, s.stop_reason, s.states, [t.num_tokens for t in s.traces]) for s in (real, replayed)]
        if of_both[0] != of_both[1]:
            differ.append((i, of_both))
    said = f"{len(prompts) - len(differ)} of {len(prompts)} problems come to the same on the engine and in the replay"
    print(f"{name}: {said}" + "".join(f"\n  {one}" for one in differ), file=sys.stderr, flush=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _trace(
    index: int, tokens: list[int], confidences: list[float], text: str, stopped: bool, logprobs: Sequence[float] = ()
) -> Trace:
    return Trace(0, index, tokens, text, list(logprobs), [], confidences, "stop" if stopped else "length")


def qwen(data: Path, pool: VerifierPool) -> Traces:
    """Grade-school questions with a confidence of every token."""
    found = _lines(data / "qwen05b_traces" / "traces.jsonl.gz")
    problems = [Problem(f"{row['source']}-{row['idx']}", row["problem"], str(row["gold"])) for row in found]
    traces = [
        [
            _trace(j, one["token_ids"], one["conf_top20"], one["text"], one["finish"] == "stop", one["logprobs"])
            for j, one in enumerate(row["traces"])
        ]
        for row in found
    ]
    settings = ScalingSection(
        budgets=[16], warmup=4, keep_top=0.5, tau=0.95, warmup_votes="all", window=64, temperature=0.7, top_p=1.0
    )
    return Traces(
        "Qwen2.5-Coder-0.5B", traces, [extract_answer] * len(found),
        [AnswerGroups(certainly_equivalent) for _ in found], _graded(problems, pool), settings,
        frozenset({"confidences", "logprobs", "token_ids"}),
    )  # fmt: skip


def areal(data: Path) -> Traces:
    """Long reasoning traces, 32 of each problem, with the rewards that their makers gave."""
    several: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for name in ("aime24__deepscaler-1.5b", "aime24__openmath-nemotron-1.5b", "aime25__openmath-nemotron-1.5b"):
        for row in _lines(data / "areal_rollouts" / f"{name}.jsonl.gz"):
            several.setdefault((name, row["task_id"]), []).append(row)
    whole = [of[:32] for of in several.values() if len(of) >= 32]
    traces = [
        [_trace(j, [0] * (row["seqlen"] - row["prompt_len"]), [], row["completion"], True) for j, row in enumerate(of)]
        for of in whole
    ]

    def grade(index: int, trace: Trace | None) -> float:
        return 0.0 if trace is None else float(whole[index][trace.sample_index]["reward"] >= 1.0)

    groups = [AnswerGroups(certainly_equivalent) for _ in whole]
    section = ScalingSection(budgets=[32])
    return Traces("1.5B on AIME", traces, [extract_answer] * len(whole), groups, grade, section, frozenset())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", type=int, default=136, help="for the model in the package; 0: none")
    parser.add_argument("--budget", type=int, default=32)
    parser.add_argument("--data", type=Path, default=DATA, help="of the recorded sets")
    parser.add_argument("--online", type=int, default=0, help="problems on which the replay is held against the engine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--checkpoint", help="a run, a checkpoint or a hub id, in place of the three sets")
    parser.add_argument("--questions", type=Path, help="with --checkpoint: problems with answers (.jsonl)")
    parser.add_argument("--engine", choices=("native", "vllm"), default="native", help="with --checkpoint")
    options = parser.parse_args()
    if bool(options.checkpoint) != bool(options.questions):
        parser.error("give --checkpoint and --questions together")
    count, budget, online = options.problems, options.budget, options.online
    with VerifierPool() as pool:
        if options.checkpoint:
            family = read_config(model_directory(options.checkpoint)).model_type
            problems = read_problems(options.questions)[:count]
            name = f"{options.checkpoint} ({family}) on {options.engine}"
            sets = [answered(name, options.checkpoint, problems, budget, pool, online, options.engine)]
        else:
            sets = []
            if count:
                problems = new_problems(count)
                sets = [answered("the shipped model", SHIPPED, problems, budget, pool, online, "native")]
            sets += [qwen(options.data, pool)] if (options.data / "qwen05b_traces").is_dir() else []
            sets += [areal(options.data)] if (options.data / "areal_rollouts").is_dir() else []
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
