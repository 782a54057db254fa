"""Answers to a person's own questions: plain traces, or DeepConf on a question or a file of problems."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from h1r.config import EngineSection, Recipe, load_recipe, resolve
from h1r.data.chat import prompt_ids
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.choose import open_engine
from h1r.engine.protocol import Engine, SamplingParams
from h1r.errors import UserError
from h1r.evals.stages import last_trained
from h1r.model import load
from h1r.progress import progress
from h1r.records import Problem, Trace, content_id, read_jsonl
from h1r.run import Run
from h1r.scaling.answers import groups_for
from h1r.scaling.deepconf import DeepConf, Solution, problem_seed, solve_many
from h1r.train.start import equip
from h1r.verify import VerifierPool


@dataclass(frozen=True, slots=True)
class Solved:
    """What DeepConf came to on one problem.

    `votes`: (answer, weight), the heaviest first. `full_budget_tokens`: what all traces of the budget would cost at
    the mean length of those that ran to their end, an estimate, None when none did. `correct`: None without reference.
    """

    problem_id: str
    question: str
    answer: str | None
    share: float
    votes: list[tuple[str, float]]
    traces: int
    budget: int
    tokens: int
    full_budget_tokens: int | None
    stop_reason: str
    correct: bool | None
    text: str | None

    def lines(self) -> str:
        """The outcome for the terminal."""
        verdict = {None: "", True: " (correct)", False: " (wrong)"}[self.correct]
        votes = ", ".join(f"{answer}: {weight:.3g}" for answer, weight in self.votes[:5])
        full = (
            "" if self.full_budget_tokens is None else f", against about {self.full_budget_tokens:,} without stopping"
        )
        return (
            f"{self.answer or 'no answer'}{verdict}\n"
            f"  votes   {votes or 'none'} ({100 * self.share:.0f}% for the winner)\n"
            f"  tokens  {self.tokens:,} in {self.traces} of {self.budget} traces{full}; ended by {self.stop_reason}"
        )


def recipe_of(checkpoint: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of the run that a checkpoint lies in (up to two directories above it), else the defaults."""
    path = Path(checkpoint)
    for directory in (path, *path.parents[:2]):
        if (directory / "recipe.json").exists():
            return load_recipe(directory / "recipe.json", overrides)
    return resolve({"name": "defaults"}, overrides, "--set")


def generate(
    checkpoint: str, questions: Sequence[str], params: SamplingParams, overrides: dict[str, Any] | None = None
) -> list[Trace]:
    """Traces of each question, in order of (question, sample). `UserError` for a checkpoint that cannot be loaded."""
    recipe = recipe_of(checkpoint, overrides)
    traces = []
    with (
        _open(checkpoint, recipe.engine) as (engine, tokenizer),
        progress("Generate", total=len(questions) * params.n, unit="trace") as bar,
    ):
        prompts = [prompt_ids(tokenizer, question, recipe.chat.system_prompt) for question in questions]
        for trace in engine.stream(prompts, params):
            _check(trace, questions[trace.prompt_index])
            traces.append(trace)
            bar.advance()
    return sorted(traces, key=lambda trace: (trace.prompt_index, trace.sample_index))


def solve(checkpoint: str, question: str, recipe: Recipe, seed: int = 0) -> list[Solved]:
    """DeepConf, as the recipe's [scaling] has it at its largest budget, on a question or on a JSONL file of problems.

    `UserError` for a checkpoint or a file that cannot be read.
    """
    problems = _problems(question)
    params = DeepConf.from_section(recipe.scaling, max(recipe.scaling.budgets))
    with (
        _open(checkpoint, recipe.engine) as (engine, tokenizer),
        VerifierPool() as pool,
        progress("Solve", unit="trace") as bar,
    ):

        def on_trace(trace: Trace) -> None:
            _check(trace, problems[trace.prompt_index].question)
            bar.advance()

        solutions = solve_many(
            engine,
            [prompt_ids(tokenizer, problem.question, recipe.chat.system_prompt) for problem in problems],
            params,
            seeds=[problem_seed(seed, problem.id) for problem in problems],
            groups=[groups_for(problem, pool.verify_many) for problem in problems],
            on_trace=on_trace,
        )
        return [_solved(problem, solution, pool) for problem, solution in zip(problems, solutions, strict=True)]


def _solved(problem: Problem, solution: Solution, pool: VerifierPool) -> Solved:
    winner = solution.answer_trace
    text = None if winner is None else winner.text
    correct = None
    if problem.answer:
        correct = text is not None and pool.verify_many([problem], [text])[0].reward >= 1.0
    whole = [trace.num_tokens for trace in solution.traces if trace.finish_reason in ("stop", "length")]
    return Solved(
        problem_id=problem.id,
        question=problem.question,
        answer=solution.answer,
        share=solution.vote.share,
        votes=sorted(solution.vote.totals.items(), key=lambda vote: -vote[1]),
        traces=len(solution.traces),
        budget=solution.budget,
        tokens=solution.tokens_total,
        full_budget_tokens=round(solution.budget * sum(whole) / len(whole)) if whole else None,
        stop_reason=solution.stop_reason,
        correct=correct,
        text=text,
    )


def _check(trace: Trace, question: str) -> None:
    """What the engine cannot generate is the question or the settings here."""
    if trace.finish_reason == "error":
        raise UserError(f"cannot answer {reprlib.repr(question)}: {trace.error}; shorten it, or lower max_tokens")


def _problems(question: str) -> list[Problem]:
    if question.endswith(".jsonl"):
        return list(read_jsonl(question, Problem))
    return [Problem(id=content_id(question), question=question, answer="")]


@contextmanager
def _open(checkpoint: str, section: EngineSection) -> Iterator[tuple[Engine, PreTrainedTokenizerFast]]:
    """The engine and tokenizer of a checkpoint; a run directory stands for the last model trained in it."""
    path = Path(checkpoint)
    found: str | Path = checkpoint
    if (path / "recipe.json").exists():
        found = path / last_trained(Run(path)) / "model"
    # Loaded first where it is needed: what is wrong with a checkpoint is told before what is wrong with its tokenizer.
    loaded = equip(load(found), "auto") if section.kind == "native" else None
    tokenizer = load_tokenizer(found)
    with open_engine(section, tokenizer, loaded or (lambda: equip(load(found), "auto")), found) as engine:
        yield engine, tokenizer
