"""Accuracy against tokens: majority and another method, DeepConf as a rule, at several budgets, on the same seeds.

    saving = 1 - tokens(DeepConf) / tokens(majority)        all generated tokens, both at the same budget
    accuracy difference = DeepConf - majority               paired by problem
    saving by consensus = 1 - tokens(DeepConf whose traces run to their end) / tokens(majority); the rest: confidence

At the largest budget both are real runs of the engine, with early stopping and consensus inside it. The complete traces
of the majority run are then replayed (`h1r.scaling.replay`) to price the smaller budgets, marked `simulated`, and the
largest once more, so that a reader sees how far replay and reality agree. The other registered methods are priced on
the same traces. Nothing here chooses a parameter. The rows of `scaling.method` are called "deepconf" in the result,
whichever method it is; its name is `method`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from h1r.common.progress import Bar, note
from h1r.common.progress import progress as show_progress
from h1r.common.scaling_methods import METHODS
from h1r.config import ScalingSection
from h1r.errors import UserError
from h1r.records import Problem, Trace, Verdict
from h1r.rollout.pipeline import RolloutPipeline, is_scored
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract, extract_for, groups_for
from h1r.scaling.ballot import STATES, Method, Solution, State
from h1r.scaling.confidence import Confidence, summarise
from h1r.scaling.deepconf import majority_baseline, majority_params
from h1r.scaling.examples import example
from h1r.scaling.intervals import mean_accuracy, paired_difference, saving
from h1r.scaling.methods import meets, method_of
from h1r.scaling.parameters import DeepConf, sampling_of
from h1r.scaling.replay import simulate_many
from h1r.scaling.run import OnTrace, problem_seed, solve_many
from h1r.scaling.voting import VOTERS, vote_by

ProgressOf = Callable[[str, int | None, str], AbstractContextManager[Bar]]
"""`h1r.common.progress.progress`, or something like it: (name, total, unit) -> bar."""

Kept = TypeVar("Kept")
EXAMPLE_PROBLEMS = 4
_EXAMPLE_STATES: tuple[State, ...] = ("voted", "stopped", "below_threshold", "cancelled")


def study(
    pipeline: RolloutPipeline,
    problems: Sequence[Problem],
    section: ScalingSection,
    seed: int,
    progress: ProgressOf = show_progress,
    *,
    slots: int | None = None,
) -> dict[str, Any]:
    """Runs the study on the first `section.problems` problems and returns it ready for JSON.

    `slots`: sequences the engine decodes together (its `max_sequences`), which decides how many tokens are in flight at
    a replayed consensus; None: all of them. A problem that the engine cannot answer at all is left out, and answers
    without a verdict are in no accuracy. Raises `UserError` without problems or budgets, when the engine fails at too
    many traces, and when no answer has a verdict.
    """
    problems = list(problems[: section.problems])
    if not problems or not section.budgets:
        missing = "problem" if not problems else "budget"
        raise UserError(f"there is no {missing} to study; give scaling.budgets and problems.held_out at least one each")
    budgets = sorted(set(section.budgets))
    largest = budgets[-1]
    engine, prompts = pipeline.engine, pipeline.prompts(problems)
    seeds = [problem_seed(seed, problem.id) for problem in problems]
    groups = [groups_for(problem, pipeline.verify_many) for problem in problems]
    extract = [extract_for(problem) for problem in problems]

    sampling, chosen = sampling_of(section), method_of(section, largest)
    total = len(problems) * largest
    with _watched(progress, f"majority of {largest}", total, problems) as (on_trace, majority_seconds):
        majority = majority_baseline(
            engine, prompts, largest, sampling, seeds=seeds, extract=extract, groups=groups, on_trace=on_trace
        )
    title = f"{'DeepConf' if section.method == 'deepconf' else section.method} at {largest}"
    with _watched(progress, title, total, problems) as (on_trace, online_seconds):
        online = solve_many(engine, prompts, chosen, seeds=seeds, extract=extract, groups=groups, on_trace=on_trace)
    answered = [i for i in range(len(problems)) if not (_failed(majority[i]) or _failed(online[i]))]
    if len(answered) < len(problems):
        note(f"the engine could not answer {len(problems) - len(answered)} of {len(problems)} problems: left out")
        problems, groups, extract = _at(problems, answered), _at(groups, answered), _at(extract, answered)
        majority, online = _at(majority, answered), _at(online, answered)
    grader = _Grader(problems, pipeline)
    recorded = [solution.traces for solution in majority]

    rows = []
    for budget in budgets:
        both = method_of(section, budget)
        voted, replayed = (
            simulate_many(recorded, params, slots=slots, extract=extract, groups=groups)
            for params in (majority_params(budget, sampling), both)
        )
        row = _row(budget, voted, online if budget == largest else replayed, grader)
        if isinstance(both, DeepConf):
            to_their_end = simulate_many(
                recorded, replace(both, stop_doubtful=False), slots=slots, extract=extract, groups=groups
            )
            row["saving"] = _split(voted, to_their_end, replayed)
        if budget == largest:
            row["majority"] |= {"simulated": False, "seconds": majority_seconds()}
            row["deepconf"] |= {"simulated": False, "seconds": online_seconds()}
            row["deepconf_simulated"] = {**_score(replayed, grader), "simulated": True}
            row["agreement"] = _agreement(recorded, online, replayed, grader)
        rows.append(row)

    return {
        "budget": largest,
        "method": section.method,
        "problems": len(problems),
        "seed": seed,
        "section": section.model_dump(mode="json"),
        **{key: rows[-1][key] for key in ("majority", "deepconf", "paired", "agreement")},
        "budgets": rows,
        "methods": _methods(section, recorded, majority, slots, extract, groups, grader),
        "voters": _voters(recorded, section.window, extract, groups, grader),
        "confidence": _confidence_when(recorded, section.window, grader),
        "outcomes": _outcomes(problems, majority, online, grader),
        "examples": _examples(pipeline.tokenizer, problems, online, grader),
    }


def _at(several: Sequence[Kept], places: Sequence[int]) -> list[Kept]:
    return [several[i] for i in places]


def _failed(solution: Solution) -> bool:
    return all(state == "error" for state in solution.states)


@contextmanager
def _watched(
    progress: ProgressOf, name: str, total: int, problems: Sequence[Problem]
) -> Iterator[tuple[OnTrace, Callable[[], float]]]:
    """Progress over the traces of a run: what is called with each of them, and what tells the seconds it took."""
    started, tokens = time.monotonic(), 0
    seconds = 0.0
    with progress(name, total, "trace") as bar:

        def on_trace(trace: Trace) -> None:
            nonlocal tokens
            trace.problem_id = problems[trace.prompt_index].id
            # They are half of the memory, and of all of them a method asks for the mean at most.
            trace.logprobs, trace.sampling_logprobs = trace.logprobs and [fmean(trace.logprobs)], []
            tokens += trace.num_tokens
            bar.advance(tokens=tokens)

        yield on_trace, lambda: seconds
        seconds = time.monotonic() - started


def _row(budget: int, majority: Sequence[Solution], deepconf: Sequence[Solution], grader: _Grader) -> dict[str, Any]:
    """Both methods at one budget, as if replayed."""
    return {
        "budget": budget,
        "majority": {**_score(majority, grader), "simulated": True},
        "deepconf": {**_score(deepconf, grader), "simulated": True},
        "paired": _paired(majority, deepconf, grader),
    }


def _split(
    majority: Sequence[Solution], to_their_end: Sequence[Solution], both: Sequence[Solution]
) -> dict[str, float]:
    """What a replayed DeepConf saves of majority's tokens: by consensus, and by ending doubtful traces beyond that."""
    whole, consensus, spent = (sum(s.tokens_total for s in found) for found in (majority, to_their_end, both))
    return {"consensus": 1 - consensus / whole, "confidence": (consensus - spent) / whole}


def _outcomes(
    problems: Sequence[Problem], majority: Sequence[Solution], online: Sequence[Solution], grader: _Grader
) -> list[dict[str, Any]]:
    """What each problem came to at the largest budget."""
    right = [grader.grade(solutions) for solutions in (majority, online)]
    return [
        {
            "problem_id": problem.id,
            "family": problem.family,
            "reference": problem.answer,
            "majority": {**majority[i].to_dict(), "correct": None if math.isnan(right[0][i]) else bool(right[0][i])},
            "deepconf": {**online[i].to_dict(), "correct": None if math.isnan(right[1][i]) else bool(right[1][i])},
        }
        for i, problem in enumerate(problems)
    ]


class _Grader:
    """Grades answers by a trace that gave them; each text of a problem is verified once."""

    def __init__(self, problems: Sequence[Problem], pipeline: RolloutPipeline) -> None:
        self._problems = problems
        self._pipeline = pipeline
        self._known: dict[tuple[int, str], Verdict] = {}

    def verdicts(self, traces: Sequence[tuple[int, Trace]]) -> list[Verdict]:
        """Verdicts of (problem index, trace) pairs."""
        keys = [(index, trace.text) for index, trace in traces]
        new = {key: trace for key, (_, trace) in zip(keys, traces, strict=True) if key not in self._known}
        if new:
            found = self._pipeline.verdicts([self._problems[index] for index, _ in new], list(new.values()))
            self._known.update(zip(new, found, strict=True))
        return [self._known[key] for key in keys]

    def grade(self, solutions: Sequence[Solution]) -> list[float]:
        """1.0 where the voted answer is correct, else 0.0; no answer is wrong, and one without a verdict NaN."""
        given = [(i, trace) for i, solution in enumerate(solutions) if (trace := solution.answer_trace) is not None]
        grades = [0.0] * len(solutions)
        for (i, _), verdict in zip(given, self.verdicts(given), strict=True):
            grades[i] = float(verdict.reward >= 1.0) if is_scored(verdict) else math.nan
        return grades


def _score(solutions: Sequence[Solution], grader: _Grader) -> dict[str, Any]:
    grades = [grade for grade in grader.grade(solutions) if not math.isnan(grade)]
    if not grades:
        raise UserError("no voted answer could be scored; see what its verifier needs")
    estimate = mean_accuracy(grades, samples=1)
    by_state = {state: sum(solution.tokens[state] for solution in solutions) for state in STATES}
    return {
        "accuracy": estimate.value,
        "interval": list(estimate.interval),
        "tokens": sum(by_state.values()),
        "tokens_by_state": by_state,
        "traces": sum(len(solution.traces) for solution in solutions),
        "stop_reasons": dict(Counter(solution.stop_reason for solution in solutions)),
        "fallbacks": sum(solution.fallback for solution in solutions),
    }


def _paired(majority: Sequence[Solution], other: Sequence[Solution], grader: _Grader) -> dict[str, Any]:
    pairs = _graded_pairs(majority, other, grader)
    if not pairs:
        raise UserError("no problem has two voted answers that could be scored; see what their verifier needs")
    difference = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    saved = saving([s.tokens_total for s in other], [s.tokens_total for s in majority])
    return {
        "accuracy_difference": difference.value,
        "accuracy_interval": list(difference.interval),
        "better": difference.better,
        "worse": difference.worse,
        "equal": difference.equal,
        "token_saving": saved.value,
        "token_saving_interval": list(saved.interval),
    }


def _graded_pairs(first: Sequence[Solution], second: Sequence[Solution], grader: _Grader) -> list[tuple[float, float]]:
    """The grades of both, of the problems where both have one."""
    pairs = zip(grader.grade(first), grader.grade(second), strict=True)
    return [pair for pair in pairs if not any(map(math.isnan, pair))]


def _agreement(
    recorded: Sequence[Sequence[Trace]], online: Sequence[Solution], replayed: Sequence[Solution], grader: _Grader
) -> dict[str, float]:
    """How far the replay matches the real run: shares of problems, of traces, and the ratio of tokens."""
    pairs = _graded_pairs(online, replayed, grader)
    launched = [(whole, trace) for whole, s in zip(recorded, online, strict=True) for trace in s.traces]
    prefixes = sum(
        trace.token_ids == whole[trace.sample_index].token_ids[: trace.num_tokens] for whole, trace in launched
    )
    return {
        "same_verdict": sum(a == b for a, b in pairs) / max(1, len(pairs)),
        "prefixes": prefixes / len(launched),
        "token_ratio": sum(s.tokens_total for s in replayed) / sum(s.tokens_total for s in online),
    }


def _methods(
    section: ScalingSection,
    recorded: Sequence[Sequence[Trace]],
    majority: Sequence[Solution],
    slots: int | None,
    extract: Sequence[Extract],
    groups: Sequence[AnswerGroups],
    grader: _Grader,
) -> dict[str, dict[str, Any]]:
    """Other ways to spend the largest budget, by name: accuracy, tokens, and the paired difference to majority. Those
    that the traces have too little for, or that need options which nobody gave, are left out."""
    found = {}
    for name, method in others(section, len(recorded[0]), frozenset({"confidences", "logprobs", "token_ids"})).items():
        try:
            solutions = simulate_many(recorded, method, slots=slots, extract=extract, groups=groups)
        except Exception as error:  # a method of somebody's plugin must not cost what was generated
            if type(method).__module__.startswith("h1r."):
                raise
            note(f"method {name} of a plugin is not in the study: {type(error).__name__}: {error}")
            continue
        found[name] = {
            **_score(solutions, grader),
            "paired": _paired(majority, solutions, grader),
            "simulated": True,
        }
    return found


def others(section: ScalingSection, budget: int, has: frozenset[str]) -> dict[str, Method]:
    """The registered methods but for majority and the recipe's own, at a budget, as far as traces that have these lists
    can price them."""
    found = {}
    for name in METHODS.names():
        if name in ("majority", section.method) or not meets(METHODS.require(name), has):
            continue
        try:
            found[name] = method_of(section, budget, name)
        except (UserError, ValueError):  # it has options without a default, or does not work at this budget
            continue
    return found


def _voters(
    recorded: Sequence[Sequence[Trace]],
    window: int,
    extract: Sequence[Extract],
    groups: Sequence[AnswerGroups],
    grader: _Grader,
) -> dict[str, float]:
    """Accuracy of every voter, offline, on all complete traces."""
    ballots: list[tuple[list[Trace], list[str | None], list[Confidence]]] = []
    for traces, read in zip(recorded, extract, strict=True):
        usable = [trace for trace in traces if trace.confidences and trace.finish_reason != "error"]
        answers = [read(trace.text) for trace in usable]
        ballots.append((usable, answers, [summarise(trace.confidences, window) for trace in usable]))
    accuracies: dict[str, float] = {}
    for voter in VOTERS:
        votes = [vote_by(voter, answers, stats, of) for (_, answers, stats), of in zip(ballots, groups, strict=True)]
        given = [(i, ballots[i][0][vote.index]) for i, vote in enumerate(votes) if vote.index is not None]
        verdicts = grader.verdicts(given)
        unscored = sum(not is_scored(verdict) for verdict in verdicts)
        accuracies[voter] = sum(verdict.reward >= 1.0 for verdict in verdicts) / max(1, len(recorded) - unscored)
    return accuracies


def _confidence_when(recorded: Sequence[Sequence[Trace]], window: int, grader: _Grader) -> dict[str, Any]:
    """Whether confidence tells right from wrong: mean lowest group confidence (nats) of each, and the AUROC.

    The AUROC is the chance that a correct trace is more confident than a wrong one of the same problem, over all such
    pairs; only within a problem can a vote use it. Its interval resamples problems.
    """
    traces = [(i, t) for i, several in enumerate(recorded) for t in several if t.confidences]
    verdicts = grader.verdicts(traces)
    traces = [pair for pair, verdict in zip(traces, verdicts, strict=True) if is_scored(verdict)]
    lowest = np.array([summarise(trace.confidences, window).lowest for _, trace in traces])
    right = np.array([verdict.reward >= 1.0 for verdict in verdicts if is_scored(verdict)])
    problem = np.array([index for index, _ in traces])
    lost, pairs = [], []  # of each problem that has any pairs
    for index in np.unique(problem):
        of = problem == index
        gaps = lowest[of & right][:, None] - lowest[of & ~right][None, :]
        if gaps.size:
            lost.append(float((gaps < 0).sum() + 0.5 * (gaps == 0).sum()))
            pairs.append(float(gaps.size))
    auroc = saving(lost, pairs) if pairs else None  # the share of pairs that are not lost
    return {
        "pass_at_1": float(right.mean()) if right.size else None,
        "correct": float(lowest[right].mean()) if right.any() else None,
        "wrong": float(lowest[~right].mean()) if (~right).any() else None,
        "auroc": auroc.value if auroc else None,
        "auroc_interval": auroc.interval if auroc else None,
    }


def _examples(
    tokenizer: Any, problems: Sequence[Problem], solutions: Sequence[Solution], grader: _Grader
) -> list[dict[str, Any]]:
    """Of a few problems, the first trace of each interesting state, with the vote it belongs to.

    Problems with a stopped trace come first: they show what the method does.
    """
    order = sorted(range(len(problems)), key=lambda i: ("stopped" not in solutions[i].states, i))
    shown = []
    for i in order[:EXAMPLE_PROBLEMS]:
        solution = solutions[i]
        for state in _EXAMPLE_STATES:
            if state in solution.states:
                trace = solution.traces[solution.states.index(state)]
                verdict = grader.verdicts([(i, trace)])[0] if state in ("voted", "below_threshold") else None
                shown.append(
                    example(
                        tokenizer, problems[i], trace, verdict,
                        state=state, threshold=solution.threshold, vote=asdict(solution.vote),
                    )
                )  # fmt: skip
    return shown
