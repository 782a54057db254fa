"""pass@1 averaged over n answers a problem (arXiv 2601.02346, section 4.1), on any engine.

Every problem's answers come from its own stream of seeds, which depends on the seed and the problem's id alone: two
checkpoints, or two subsets of a benchmark, are compared on the same draws.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from h1r.common.progress import progress as show_progress
from h1r.config import EvalSection, ScalingSection
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.evals.budgets import at_budgets, cons_at_n
from h1r.evals.metrics import (
    Answer,
    Faults,
    Outcome,
    Room,
    calibration_error,
    faults,
    is_correct,
    pass_at_1,
    pass_at_k,
    per_family,
    total_usage,
)
from h1r.evals.samples import Place, Samples
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import RolloutPipeline, is_scored
from h1r.rollout.retry import UnanswerableError
from h1r.scaling.deepconf import problem_seed
from h1r.scaling.examples import example
from h1r.scaling.study import ProgressOf
from h1r.verify.threads import DaemonThreads

EXAMPLES_PER_FAMILY = 4
EXAMPLE_TOKENS = 10_000
"""Problems a family whose first answer is shown, the first ones in the file: the same for every checkpoint."""
GRADED_AT_ONCE = 64
"""Answers whose verdicts are asked for together, while others are generated."""
BATCHES_AHEAD = 16
"""Batches of them that may wait; then no further answer is taken before one has its verdicts."""
ONLY_MAJORITY = ScalingSection(method="majority")


@dataclass(slots=True)
class EvalResult:
    """Held-out accuracy of one model. Accuracies and shares are 0 to 1, tokens are means over traces."""

    pass_at_1: float
    interval: tuple[float, float]
    per_family: dict[str, dict[str, Any]]
    pass_at_k: dict[str, float]
    per_repeat: list[float]
    """Accuracy of the first answer to each problem, of the second, and so on."""
    cons_at_n: float | None
    """See `budgets.py`; None with one answer a problem, and where answers have no majority."""
    budgets: dict[str, Any] | None
    """See `budgets.at_budgets`."""
    calibration_error: float | None
    """See `metrics.calibration_error`; None where no verdict has the confidence of its answer."""
    mean_tokens: float | None
    """None where the server states those of no answer."""
    usage: dict[str, int] | None
    """Tokens that a server stated, over all answers (`metrics.USAGE`)."""
    room: dict[str, int] | None
    """See `metrics.Room`; None where every answer could have as many tokens as were asked for."""
    faults: Faults
    samples_per_problem: int
    problems: int
    confidence_level: float
    seed: int
    seconds: float
    outcomes: list[Outcome]
    examples: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the shares of `Faults` stand at the top level, `truncated` and the others."""
        fields = asdict(self)
        return {**fields, **fields.pop("faults"), "interval": list(self.interval)}


def evaluate(
    pipeline: RolloutPipeline,
    problems: Sequence[Problem],
    section: EvalSection,
    seed: int,
    progress: ProgressOf = show_progress,
    name: str = "eval",
    path: Path | None = None,
    scaling: ScalingSection = ONLY_MAJORITY,
) -> EvalResult:
    """Asks every problem `section.samples` times and grades all answers. `name` heads the progress display. scaling:
    the method that is priced on the answers beside majority.

    `path`: where the answers are kept (`samples.py`). What lies there already is not asked for again, so the file has
    to be of these problems, settings and weights. Answers without a verdict are in no accuracy: a problem counts by its
    others, and not at all without any. Raises `UserError` without problems, without any verdict, and when the engine
    fails at too many traces.
    """
    if not problems:
        raise UserError("there is no held-out problem to evaluate on; raise problems.held_out or mend corpus.sources")
    started = time.monotonic()
    with ExitStack() as stack:
        if path is None:
            path = Path(stack.enter_context(TemporaryDirectory())) / "samples.jsonl"
        samples = stack.enter_context(Samples(path, problems, section.samples))
        _generate(pipeline, samples, section, seed, progress, name, scaling.top_k)
        samples.finish()
        return result_of(samples, section, seed, time.monotonic() - started, pipeline, scaling)


def _generate(
    pipeline: RolloutPipeline,
    samples: Samples,
    section: EvalSection,
    seed: int,
    progress: ProgressOf,
    name: str,
    confidence_top_k: int,
) -> None:
    """Asks for what is missing. Answers are graded in a thread while others are generated."""
    problems = samples.problems
    parts = list(_consecutive(samples.missing()))
    missing = sum(count for _, count in parts)
    params = [
        SamplingParams(
            n=count, temperature=section.temperature, top_p=section.top_p, max_tokens=section.max_tokens,
            seed=problem_seed(seed, problems[index].id) + first, confidence_top_k=confidence_top_k, fit=True,
        )
        for (index, first), count in parts
    ]  # fmt: skip
    grader = _Grader(pipeline, samples)
    for place in samples.unscored():
        grader.add(samples.trace(place))
    total, tokens = len(problems) * section.samples, 0
    with progress(name, total, "trace") as bar:
        bar.start_at(total - missing)

        def take(trace: Trace) -> None:
            nonlocal tokens
            (index, first), _ = parts[trace.prompt_index]
            trace.prompt_index, trace.sample_index = index, first + trace.sample_index
            samples.add([trace])
            grader.add(trace)
            tokens += trace.num_tokens
            bar.advance(1, tokens=tokens, **grader.right())

        try:
            for trace in pipeline.stream([problems[index] for (index, _), _ in parts], params) if parts else ():
                take(trace)
        except UnanswerableError as error:
            if missing == total:
                raise
            for trace in error.traces:  # the others have their answers from an earlier attempt
                take(trace)
        grader.finish()
        bar.advance(0, **grader.right())


class _Grader:
    """Has answers graded by the batch in a thread, and their verdicts kept."""

    def __init__(self, pipeline: RolloutPipeline, samples: Samples) -> None:
        self._pipeline, self._samples = pipeline, samples
        self._thread = DaemonThreads(1, "h1r-eval")
        self._waiting: list[Trace] = []
        self._batches: deque[Future[None]] = deque()
        self._scored = self._right = 0
        for _, answer in samples.answers():
            self._scored += answer.scored
            self._right += answer.scored and is_correct(answer)

    def add(self, trace: Trace) -> None:
        """Takes a trace, of which a verdict needs the text alone. Waits where many wait already."""
        self._waiting.append(replace(trace, token_ids=[], logprobs=[], sampling_logprobs=[], confidences=[], mask=None))
        if len(self._waiting) >= GRADED_AT_ONCE:
            self._grade()
            while self._batches and (self._batches[0].done() or len(self._batches) > BATCHES_AHEAD):
                self._batches.popleft().result()  # what went wrong is told now, not after the last trace

    def right(self) -> dict[str, float]:
        """The share of right answers among those that have a verdict so far; nothing before the first."""
        return {"right": self._right / self._scored} if self._scored else {}

    def finish(self) -> None:
        """Waits for all verdicts; raises what a batch raised."""
        self._grade()
        while self._batches:
            self._batches.popleft().result()

    def _grade(self) -> None:
        self._batches.append(self._thread.submit(self._graded, self._waiting))
        self._waiting = []

    def _graded(self, traces: list[Trace]) -> None:
        owners = [self._samples.problems[trace.prompt_index] for trace in traces]
        places = [(trace.prompt_index, trace.sample_index) for trace in traces]
        verdicts = self._pipeline.verdicts(owners, traces)
        self._samples.grade(places, verdicts)
        scored = [verdict for verdict in verdicts if is_scored(verdict)]
        self._right += sum(map(is_correct, scored))
        self._scored += len(scored)


def _consecutive(places: Iterable[Place]) -> Iterator[tuple[Place, int]]:
    """(first place, count) of each run of samples of one problem that follow each other."""
    first, count = (-1, 0), 0
    for index, sample in places:
        if count and (index, sample) == (first[0], first[1] + count):
            count += 1
            continue
        if count:
            yield first, count
        first, count = (index, sample), 1
    if count:
        yield first, count


def result_of(
    samples: Samples,
    section: EvalSection,
    seed: int,
    seconds: float,
    pipeline: RolloutPipeline | None = None,
    scaling: ScalingSection = ONLY_MAJORITY,
) -> EvalResult:
    """The scores of answers that are all there. Without the pipeline that made them nobody compares them for a vote.
    `UserError` where not one has a verdict."""
    n, tokens, count, room = section.samples, 0, 0, Room(section.max_tokens)
    of_problem, of_repeat = ([Counter[str]() for _ in range(some)] for some in (len(samples.problems), n))
    for (index, sample), answer in samples.answers():
        tokens, count = tokens + answer.tokens, count + 1
        room.add(index, answer)
        if answer.scored:
            for tally in (of_problem[index], of_repeat[sample]):
                tally["scored"] += 1
                tally["right"] += is_correct(answer)
    outcomes = [
        Outcome(problem.id, problem.family, tally["right"], tally["scored"])
        for problem, tally in zip(samples.problems, of_problem, strict=True)
        if tally["scored"]
    ]
    if not outcomes:
        first = next((verdict for _, verdict in samples.verdicts()), None)
        raise UserError(f"no answer could be scored: {first.error if first else 'no verdict came'}")
    estimate = pass_at_1(outcomes, section.confidence_level)
    voted = at_budgets(samples, scaling, pipeline.verify_many, section.confidence_level) if pipeline else None
    fewest = min(outcome.samples for outcome in outcomes)
    powers = [2**i for i in range(fewest.bit_length())]
    return EvalResult(
        pass_at_1=estimate.value,
        interval=estimate.interval,
        per_family=per_family(outcomes, section.confidence_level),
        pass_at_k={str(k): pass_at_k(outcomes, k) for k in powers},
        per_repeat=[tally["right"] / tally["scored"] for tally in of_repeat if tally["scored"]],
        cons_at_n=cons_at_n(voted),
        budgets=voted,
        calibration_error=calibration_error(answer for _, answer in samples.answers()),
        mean_tokens=tokens / count if tokens else None,
        usage=total_usage(answer for _, answer in samples.answers()),
        room=room.told(),
        faults=faults(answer for _, answer in samples.answers()),
        samples_per_problem=n,
        problems=len(samples.problems),
        confidence_level=section.confidence_level,
        seed=seed,
        seconds=seconds,
        outcomes=outcomes,
        examples=_examples(pipeline.tokenizer if pipeline else None, samples),
    )


def _examples(tokenizer: Any, samples: Samples) -> list[dict[str, Any]]:
    """Per family the first answers to its first problems, then, when all of these came out alike, one that did not.

    As many as have `EXAMPLE_TOKENS` together, `EXAMPLES_PER_FAMILY` at least, so that another model's answers to the
    same problems show what has changed."""
    shown = []
    families = sorted({problem.family for problem in samples.problems})
    for family in families:
        members = [i for i, problem in enumerate(samples.problems) if problem.family == family]
        found: dict[Place, Answer] = {}
        left = EXAMPLE_TOKENS / len(families)
        for count, i in enumerate(members):
            if count >= EXAMPLES_PER_FAMILY and left <= 0:
                break
            if answer := samples.answer((i, 0)):
                found[i, 0] = answer
                left -= answer.tokens
        chosen = list(found)
        for kind in (True, False):
            if all(is_correct(answer) != kind for answer in found.values()):
                every = ((i, sample) for i in members for sample in range(samples.n))
                fitting = (one for one in every if (answer := samples.answer(one)) and is_correct(answer) == kind)
                chosen += islice(fitting, 1)
        shown += [
            example(tokenizer, samples.problems[place[0]], samples.trace(place), samples.verdict(place))
            for place in chosen
        ]
    return shown
