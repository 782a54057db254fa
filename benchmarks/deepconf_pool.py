"""Traces of a run's model recorded once, many per problem, so that voting rules can be replayed on them for hours.

A pool is one .npz file: of every trace its length, token confidences, answer and end; of every problem which answers
are correct. It remembers what it was made from: for other weights, problems or another size it is recorded anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h1r.common.progress import progress
from h1r.config import Recipe, load_recipe
from h1r.data.chat import prompt_ids
from h1r.data.curate.io.drawn import draw_problems
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.native.engine import NativeEngine
from h1r.errors import UserError
from h1r.evals.stages import last_trained
from h1r.models import load
from h1r.records import FinishReason, Problem, Sample, Trace, normalise_text, read_jsonl
from h1r.run.directory import Run
from h1r.scaling.answers import extract_answer
from h1r.scaling.deepconf import problem_seed
from h1r.scaling.parameters import sampling_of
from h1r.train.start import equip
from h1r.verify import VerifierPool

RECORD_SEED = 7
"""Of the pools; no run of the recipe draws from it."""

MOST = 1_000
"""Problems drawn to choose fresh ones from."""


@dataclass(slots=True)
class Pool:
    """`traces[i]` are the complete traces of `problems[i]`; the text of each is its answer, "" without one.

    `correct[i]` holds those answers to problem i that its verifier accepts.
    """

    problems: list[Problem]
    traces: list[list[Trace]]
    correct: list[set[str]]

    def grade(self, answers: Sequence[str | None]) -> NDArray[np.float64]:
        """1.0 for each problem whose answer is correct, else 0.0."""
        return np.array([float(answer in right) for answer, right in zip(answers, self.correct, strict=True)])


def recipe_of(run: Path) -> Recipe:
    """The run's recipe; `UserError` when there is no run."""
    if not (run / "recipe.json").exists():
        raise UserError(f"{run} is no run; make one with `h1r demo --out {run}`, or give --run")
    return load_recipe(run / "recipe.json")


def tuning_problems(run: Path, count: int) -> list[Problem]:
    """Problems to choose settings by, none of which the run trained or held out."""
    return _fresh(run, 1, _seen(run), count)


def held_out_problems(run: Path, count: int) -> list[Problem]:
    """The run's own held-out problems, and where these are too few others, of which none was trained or tuned on."""
    held_out = list(read_jsonl(run / "curate" / "held_out.jsonl", Problem))[:count]
    missing = count - len(held_out)
    return held_out + _fresh(run, 2, _seen(run) | _questions(_drawn(run, 1)), missing) if missing else held_out


def _fresh(run: Path, offset: int, seen: set[str], count: int) -> list[Problem]:
    return [problem for problem in _drawn(run, offset) if normalise_text(problem.question) not in seen][:count]


def _drawn(run: Path, offset: int) -> list[Problem]:
    """Problems of the run's recipe under another `problems.seed`."""
    recipe = recipe_of(run)
    section = recipe.problems
    other = section.model_copy(update={"seed": section.seed + offset, "train": 1, "rl": 1, "held_out": MOST})
    return [item.problem for item in draw_problems(other, recipe.corpus, []).held_out]


def _seen(run: Path) -> set[str]:
    recipe_of(run)
    files = (run / "curate" / f"{name}.jsonl" for name in ("held_out", "problems_rl"))
    taught = {normalise_text(one.messages[0].content) for one in read_jsonl(run / "curate" / "samples.jsonl", Sample)}
    return taught.union(*(_questions(read_jsonl(file, Problem)) for file in files))


def _questions(problems: Iterable[Problem]) -> set[str]:
    return {normalise_text(problem.question) for problem in problems}


def open_pool(file: Path, run: Path, problems: Sequence[Problem], size: int) -> Pool:
    """The pool in `file`, recorded first unless it is there: `size` traces per problem by the run's last model."""
    model = run / last_trained(Run(run)) / "model"
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    made_from = json.dumps({"weights": weights, "problems": [problem.id for problem in problems], "size": size})
    if not file.exists() or str(np.load(file)["made_from"]) != made_from:
        _record(file, run, model, problems, size, made_from)
    return _read(file, problems)


def _record(file: Path, run: Path, directory: Path, problems: Sequence[Problem], size: int, made_from: str) -> None:
    recipe = recipe_of(run)
    tokenizer = load_tokenizer(directory)
    engine = NativeEngine(equip(load(directory), "auto"), tokenizer, recipe.engine)
    prompts = [prompt_ids(tokenizer, problem.question, recipe.chat.system_prompt) for problem in problems]
    each = [
        dataclasses.replace(sampling_of(recipe.scaling), n=size, seed=problem_seed(RECORD_SEED, problem.id))
        for problem in problems
    ]
    traces: list[Trace] = []
    with progress(f"Record {file.name}", total=size * len(problems), unit="trace") as bar:
        for trace in engine.stream(prompts, each):
            traces.append(trace)
            bar.advance()
    traces.sort(key=lambda trace: (trace.prompt_index, trace.sample_index))
    answers = [extract_answer(trace.text) for trace in traces]
    distinct = sorted({(t.prompt_index, a) for t, a in zip(traces, answers, strict=True) if a is not None})
    with VerifierPool() as verifier:
        verdicts = verifier.verify_many(
            [problems[index] for index, _ in distinct], [rf"\boxed{{{answer}}}" for _, answer in distinct]
        )
    right = [
        [index, answer] for (index, answer), verdict in zip(distinct, verdicts, strict=True) if verdict.reward >= 1
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        file,
        made_from=np.array(made_from),
        lengths=np.array([trace.num_tokens for trace in traces]),
        confidences=np.concatenate([np.array(trace.confidences, dtype=np.float32) for trace in traces]),
        outcomes=np.array(json.dumps({"answers": answers, "ends": [t.finish_reason for t in traces], "right": right})),
    )


def _read(file: Path, problems: Sequence[Problem]) -> Pool:
    stored = np.load(file)
    outcomes: dict[str, Any] = json.loads(str(stored["outcomes"]))
    ends: list[FinishReason] = outcomes["ends"]
    lengths = stored["lengths"]
    confidences = np.split(stored["confidences"].astype(np.float64), np.cumsum(lengths)[:-1])
    size = len(lengths) // len(problems)
    traces: list[list[Trace]] = [[] for _ in problems]
    for number, (answer, end, values) in enumerate(zip(outcomes["answers"], ends, confidences, strict=True)):
        index, sample = divmod(number, size)
        nothing = [0] * len(values)
        traces[index].append(Trace(index, sample, nothing, answer or "", [], [], values.tolist(), end))
    correct: list[set[str]] = [set() for _ in problems]
    for index, answer in outcomes["right"]:
        correct[index].add(answer)
    return Pool(list(problems), traces, correct)
