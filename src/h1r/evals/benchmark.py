"""pass@1 averaged over n answers a problem (arXiv 2601.02346, section 4.1), on any engine.

Every problem's answers come from its own stream of seeds, which depends on the seed and the problem's id alone: two
checkpoints, or two subsets of a benchmark, are compared on the same draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from h1r.common.progress import progress as show_progress
from h1r.config import EvalSection
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.evals.metrics import Faults, Outcome, faults, is_correct, pass_at_1, pass_at_k, per_family
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import Graded, RolloutPipeline
from h1r.scaling.deepconf import problem_seed
from h1r.scaling.examples import example
from h1r.scaling.study import ProgressOf

EXAMPLES_PER_FAMILY = 4
"""Problems a family whose first answer is shown, the first ones in the file: the same for every checkpoint."""


@dataclass(slots=True)
class EvalResult:
    """Held-out accuracy of one model. Accuracies and shares are 0 to 1, tokens are means over traces."""

    pass_at_1: float
    interval: tuple[float, float]
    per_family: dict[str, dict[str, Any]]
    pass_at_k: dict[str, float]
    mean_tokens: float
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
) -> EvalResult:
    """Asks every problem `section.samples` times and grades all answers. `name` heads the progress display.

    Traces without a verdict are in no accuracy: a problem counts by its others, and not at all without any. Raises
    `UserError` without problems, without any verdict, and when the engine fails at too many traces.
    """
    if not problems:
        raise UserError("there is no held-out problem to evaluate on; raise problems.held_out or mend corpus.sources")
    started = time.monotonic()
    graded = _graded(pipeline, problems, section, seed, progress, name)
    n = section.samples
    outcomes = []
    for i, problem in enumerate(problems):
        scored = [one.verdict for one in graded[i * n : (i + 1) * n] if one.scored]
        if scored:
            outcomes.append(Outcome(problem.id, problem.family, sum(map(is_correct, scored)), len(scored)))
    if not outcomes:
        raise UserError(f"no answer could be scored: {graded[0].verdict.error}")
    estimate = pass_at_1(outcomes, section.confidence_level)
    fewest = min(outcome.samples for outcome in outcomes)
    powers = [2**i for i in range(fewest.bit_length())]
    return EvalResult(
        pass_at_1=estimate.value,
        interval=estimate.interval,
        per_family=per_family(outcomes, section.confidence_level),
        pass_at_k={str(k): pass_at_k(outcomes, k) for k in powers},
        mean_tokens=sum(one.trace.num_tokens for one in graded) / len(graded),
        faults=faults([one.trace for one in graded], [one.verdict for one in graded]),
        samples_per_problem=n,
        problems=len(problems),
        confidence_level=section.confidence_level,
        seed=seed,
        seconds=time.monotonic() - started,
        outcomes=outcomes,
        examples=_examples(pipeline.tokenizer, problems, graded, n),
    )


def _graded(
    pipeline: RolloutPipeline,
    problems: Sequence[Problem],
    section: EvalSection,
    seed: int,
    progress: ProgressOf,
    name: str,
) -> list[Graded]:
    """All traces in order of (problem, sample)."""
    params = [
        SamplingParams(
            n=section.samples, temperature=section.temperature, top_p=section.top_p, max_tokens=section.max_tokens,
            seed=problem_seed(seed, problem.id),
        )
        for problem in problems
    ]  # fmt: skip
    tokens = 0
    with progress(name, len(problems) * section.samples, "trace") as bar:

        def on_trace(trace: Trace) -> None:
            nonlocal tokens
            trace.logprobs, trace.sampling_logprobs = [], []  # half of what a long benchmark would hold in memory
            tokens += trace.num_tokens
            bar.advance(tokens=tokens)

        return pipeline.graded(problems, params, on_trace)


def _examples(tokenizer: Any, problems: Sequence[Problem], graded: Sequence[Graded], n: int) -> list[dict[str, Any]]:
    """Per family the first answers to its first problems, then, when all of these came out alike, one that did not."""
    shown = []
    for family in sorted({problem.family for problem in problems}):
        members = [i for i, problem in enumerate(problems) if problem.family == family]
        chosen = [i * n for i in members[:EXAMPLES_PER_FAMILY]]
        for kind in (True, False):
            if all(is_correct(graded[k].verdict) != kind for k in chosen):
                every = (k for i in members for k in range(i * n, (i + 1) * n))
                chosen += [k for k in every if is_correct(graded[k].verdict) == kind][:1]
        shown += [example(tokenizer, problems[k // n], graded[k].trace, graded[k].verdict) for k in chosen]
    return shown
