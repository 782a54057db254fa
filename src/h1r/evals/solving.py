"""DeepConf, or another method, on a person's question or file of problems: what `h1r solve` does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h1r.common.files import contents
from h1r.common.hub import version_of
from h1r.common.lines import LineFile
from h1r.common.prose import counted, figures
from h1r.config import EnvironmentSection, Recipe
from h1r.engine.protocol import Engine
from h1r.errors import UserError
from h1r.evals.answers import open_checkpoint
from h1r.evals.questions import questions_of
from h1r.evals.solve_view import Totals, View, full_budget, one_line, open_view
from h1r.records import Problem
from h1r.rollout.pipeline import RolloutPipeline, is_scored
from h1r.run.directory import model_directory
from h1r.scaling.answers import extract_for, groups_for
from h1r.scaling.ballot import STATES, Method, Solution, State
from h1r.scaling.journal import Journal
from h1r.scaling.methods import method_of
from h1r.scaling.run import ScalingRun, problem_seed
from h1r.verify import open_backend


@dataclass(frozen=True, slots=True)
class Solved:
    """What DeepConf, or another method, came to on one problem.

    `votes`: (answer, weight), the heaviest first. `full_budget_tokens`: what all traces of the budget would cost at
    the mean length of those that ran to their end, an estimate, None when none did. `correct`: None without reference
    or verdict. `text`: of the first trace that gave the answer. `states` counts traces, `tokens_by_state` their tokens,
    those in flight at a consensus under "cancelled". `threshold`: nats, None when none was needed.
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
    states: dict[State, int]
    tokens_by_state: dict[State, int]
    threshold: float | None

    def lines(self) -> str:
        """The outcome for the terminal."""
        verdict = {None: "", True: " (correct)", False: " (wrong)"}[self.correct]
        in_flight = self.tokens_by_state.get("cancelled", 0)
        votes = ", ".join(f"{one_line(answer)}: {figures(weight)}" for answer, weight in self.votes[:5])
        told = self.full_budget_tokens is not None and self.full_budget_tokens > self.tokens  # else nothing was spared
        full = f", against about {self.full_budget_tokens:,} without stopping" if told else ""
        return (
            f"{'no answer' if self.answer is None else one_line(self.answer)}{verdict}\n"
            f"  votes   {votes or 'none'} ({100 * self.share:.0f}% for the winner{self._few()})\n"
            f"  tokens  {self.tokens:,} in {self.traces} of {self.budget} traces{full}; ended by {self.stop_reason}"
            + (f", with {counted(in_flight, 'token')} in flight" if in_flight else "")
        )

    def _few(self) -> str:
        """How many voted, where fewer than half did."""
        voted = self.states.get("voted", 0)
        return f"; {voted} of {counted(self.traces, 'trace')} voted" if 0 < voted < self.traces / 2 else ""


def solve(
    checkpoint: str,
    question: str | Sequence[Problem],
    recipe: Recipe,
    seed: int = 0,
    out: Path | None = None,
    view: View | None = None,
    system_prompt: str | None = None,
    columns: Mapping[str, str] | None = None,
    say: Callable[[Solved], str] | None = None,
) -> list[Solved]:
    """The recipe's `scaling.method` at its largest budget, DeepConf as a rule, on a question, on a file of problems
    (`data/own.py`), with answers or without, or on what `questions_of` has read; columns: our field -> column of a
    file, where they have no usual names.

    With `out`, results are appended there, one JSON line a problem, in the order of the problems; a problem that has a
    line is not solved again. Traces that ended are kept in OUT.traces until their problem has its line, so that a kill
    costs only those that were running. system_prompt: another one than the checkpoint's own. say: what a person is
    told of a result on standard output as soon as it is there. Returns all results, old and new, in the order of the
    problems.

    `UserError` for a checkpoint or a file that cannot be read, a problem id that stands for two problems, or results in
    `out` that other settings made.
    """
    problems = questions_of(question, columns) if isinstance(question, str) else question
    if not recipe.scaling.budgets:
        raise UserError("scaling.budgets is empty; give it at least one budget, as in --set scaling.budgets=[64]")
    with ExitStack() as open_things:
        opened = None
        if out is not None and not model_directory(checkpoint).is_dir():
            # Of a name of the hub the weights are known once they have come.
            opened = open_things.enter_context(open_checkpoint(checkpoint, recipe))
        results = (
            open_things.enter_context(Results(out, _settings(checkpoint, recipe, seed, system_prompt))) if out else None
        )
        solved: dict[str, Solved] = dict(results.solved) if results else {}
        for problem in problems:
            if problem.id in solved and solved[problem.id].question != problem.question:
                raise UserError(f"{out}: its result for `{problem.id}` answers another question; give another --out")
        left = [problem for problem in problems if problem.id not in solved]
        view = view or (open_view() if left else View())
        if say is not None:
            for problem in problems:
                if problem.id in solved:
                    view.print(say(solved[problem.id]))
        if left:
            engine, tokenizer = opened or open_things.enter_context(open_checkpoint(checkpoint, recipe))
            view.read(engine, tokenizer)
            params = method_of(recipe.scaling, max(recipe.scaling.budgets))
            pool = open_things.enter_context(open_backend(recipe.verify))
            pipeline = RolloutPipeline(
                engine, tokenizer, pool.verify_many, system_prompt, recipe.rollout, recipe.environment
            )
            journal = open_things.enter_context(Journal(pipeline.engine, results.traces)) if results else None
            open_things.callback(view.close)
            open_things.callback(engine.watch, None)
            engine.watch(view.tick)
            totals = Totals(len(problems), len(problems) - len(left))
            for some in _batches(left, params.budget, recipe.engine.max_sequences):
                run = _run(journal or pipeline.engine, pipeline, some, params, seed, view)
                view.begin(run, some, dataclasses.replace(totals))  # which do not grow while it is shown
                new = [_solved(p, one, run, pipeline) for p, one in zip(some, run.solve(), strict=True)]
                if results and journal:
                    results.append(new)
                    journal.forget()
                for one in new:
                    if say is not None:
                        view.print(say(one))
                    solved[one.problem_id] = one
                    totals.finished += 1
                    totals.tokens += one.tokens
                    totals.full += one.full_budget_tokens or 0
        if results:
            results.traces.unlink(missing_ok=True)
    return [solved[problem.id] for problem in problems]


def summary(solved: Sequence[Solved]) -> str:
    """One line over several problems."""
    tokens = sum(one.tokens for one in solved)
    full = sum(one.full_budget_tokens or one.tokens for one in solved)
    graded = [one.correct for one in solved if one.correct is not None]
    right = f"{sum(graded)} of {len(graded)} correct, " if graded else ""
    spared = f", against about {full:,} without stopping" if full > tokens else ""
    return f"{counted(len(solved), 'problem')}: {right}{counted(tokens, 'token')}{spared}"


class Results:
    """The file of results: one JSON line per solved problem. `solved`: those that are there already, by problem id."""

    def __init__(self, path: Path, settings: str) -> None:
        self.traces = path.with_name(path.name + ".traces")
        self._settings = settings
        self._file = LineFile(path)
        self.solved: dict[str, Solved] = {}
        for number, line in enumerate(self._file.lines(), 1):
            try:
                fields = json.loads(line)
                made_with = fields.pop("settings")
                one = Solved(**{**fields, "votes": [(answer, weight) for answer, weight in fields["votes"]]})
            except (ValueError, TypeError, KeyError, AttributeError):
                self._file.close()
                raise UserError(f"{path}, line {number}: no result of `h1r solve`; give another --out") from None
            if made_with != settings:
                self._file.close()
                raise UserError(
                    f"{path}, line {number}: made with another checkpoint (or other weights in it), seed, or [scaling] "
                    "or [chat] settings; give another --out, or delete the file to start again"
                )
            self.solved[one.problem_id] = one

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, solved: Sequence[Solved]) -> None:
        """Adds results; they survive whatever happens once this returns."""
        rows = [{**dataclasses.asdict(one), "settings": self._settings} for one in solved]
        self._file.append([json.dumps(row, ensure_ascii=False) for row in rows])
        self._file.sync()


def _files_of(options: Mapping[str, Any]) -> list[Path]:
    """The files that options of a method name, in order of the options."""
    return [Path(one) for _, one in sorted(options.items()) if isinstance(one, str) and Path(one).is_file()]


def _settings(checkpoint: str, recipe: Recipe, seed: int, system_prompt: str | None) -> str:
    """A fingerprint of what decides the results: also of the weights, since a run that goes on changes them, and the
    hub has others under the same name."""
    source = model_directory(checkpoint)
    # Results from before these were keys are gone on with.
    unchanged = ("method", "options") if recipe.scaling.method == "deepconf" else ()
    parts = [
        json.dumps([str(source.resolve()), contents(source)])
        if source.is_dir()
        else json.dumps([checkpoint, version_of(checkpoint)]),
        recipe.scaling.model_dump_json(exclude={"problems", *unchanged}),
        *(contents(path) for path in _files_of(recipe.scaling.options)),
        recipe.chat.model_dump_json(include={"system_prompt"}),
        *([] if system_prompt is None else [system_prompt]),
        *([] if recipe.environment == EnvironmentSection() else [recipe.environment.model_dump_json()]),
        str(seed),
    ]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=6).hexdigest()


def _batches(problems: Sequence[Problem], budget: int, slots: int) -> Iterator[Sequence[Problem]]:
    """Problems that run together: enough that the slots stay full while some problems end early."""
    size = max(1, 4 * slots // budget)
    for first in range(0, len(problems), size):
        yield problems[first : first + size]


def _run(
    engine: Engine,
    pipeline: RolloutPipeline,
    problems: Sequence[Problem],
    params: Method,
    seed: int,
    view: View,
) -> ScalingRun:
    return ScalingRun(
        engine,
        pipeline.prompts(problems),
        params,
        seeds=[problem_seed(seed, problem.id) for problem in problems],
        extract=[extract_for(problem) for problem in problems],
        groups=[groups_for(problem, pipeline.verify_many) for problem in problems],
        on_trace=lambda _: view.tick(),
    )


def _solved(problem: Problem, solution: Solution, run: ScalingRun, pipeline: RolloutPipeline) -> Solved:
    winner = solution.answer_trace
    text = None if winner is None else winner.text
    correct = None
    if problem.answer:
        if winner is not None:
            verdict = pipeline.verdicts([problem], [winner])[0]
            correct = verdict.reward >= 1.0 if is_scored(verdict) else None
        elif any(state != "error" for state in solution.states):
            correct = False
    full = full_budget(solution.budget, run.ballots[solution.prompt_index])
    return Solved(
        problem_id=problem.id,
        question=problem.question,
        answer=solution.answer,
        share=solution.vote.share,
        votes=sorted(solution.vote.totals.items(), key=lambda vote: -vote[1]),
        traces=len(solution.traces),
        budget=solution.budget,
        tokens=solution.tokens_total,
        full_budget_tokens=None if full is None else round(full),
        stop_reason=solution.stop_reason,
        correct=correct,
        text=text,
        states={state: solution.states.count(state) for state in STATES},
        tokens_by_state=dict(solution.tokens),
        threshold=solution.threshold,
    )
