"""pass@1 averaged over n answers a problem (arXiv 2601.02346, section 4.1), on any engine.

Every problem's answers come from its own stream of seeds, which depends on the seed and the problem's id alone: two
checkpoints, or two subsets of a benchmark, are compared on the same draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from h1r.common.progress import progress as show_progress
from h1r.config import EvalSection
from h1r.data.chat import prompt_ids
from h1r.engine.protocol import Engine, SamplingParams
from h1r.errors import UserError
from h1r.evals.metrics import Faults, Outcome, faults, is_correct, pass_at_1, pass_at_k, per_family
from h1r.records import Problem, Trace, Verdict
from h1r.scaling.answers import VerifyMany
from h1r.scaling.deepconf import problem_seed
from h1r.scaling.examples import example
from h1r.scaling.study import ProgressOf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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
    engine: Engine,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    section: EvalSection,
    verify_many: VerifyMany,
    system_prompt: str | None,
    seed: int,
    progress: ProgressOf = show_progress,
    name: str = "eval",
) -> EvalResult:
    """Asks every problem `section.samples` times and grades all answers. `name` heads the progress display.

    Raises `UserError` without problems, and when the engine fails on a trace: a score over what happened to survive
    would be wrong.
    """
    if not problems:
        raise UserError("there is no held-out problem to evaluate on; raise problems.held_out or mend problems.sources")
    started = time.monotonic()
    traces = _generate(engine, tokenizer, problems, section, system_prompt, seed, progress, name)
    verdicts = verify_many([problems[trace.prompt_index] for trace in traces], [trace.text for trace in traces])
    n = section.samples
    outcomes = [
        Outcome(problem.id, problem.family, sum(is_correct(v) for v in verdicts[i * n : (i + 1) * n]), n)
        for i, problem in enumerate(problems)
    ]
    estimate = pass_at_1(outcomes, section.confidence_level)
    powers = [2**i for i in range(n.bit_length())]
    return EvalResult(
        pass_at_1=estimate.value,
        interval=estimate.interval,
        per_family=per_family(outcomes, section.confidence_level),
        pass_at_k={str(k): pass_at_k(outcomes, k) for k in powers},
        mean_tokens=sum(trace.num_tokens for trace in traces) / len(traces),
        faults=faults(traces, verdicts),
        samples_per_problem=n,
        problems=len(problems),
        confidence_level=section.confidence_level,
        seed=seed,
        seconds=time.monotonic() - started,
        outcomes=outcomes,
        examples=_examples(tokenizer, problems, traces, verdicts, n),
    )


def _generate(
    engine: Engine,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    section: EvalSection,
    system_prompt: str | None,
    seed: int,
    progress: ProgressOf,
    name: str,
) -> list[Trace]:
    """All traces in order of (problem, sample)."""
    prompts = [prompt_ids(tokenizer, problem.question, system_prompt) for problem in problems]
    params = [
        SamplingParams(
            n=section.samples, temperature=section.temperature, top_p=section.top_p, max_tokens=section.max_tokens,
            seed=problem_seed(seed, problem.id),
        )
        for problem in problems
    ]  # fmt: skip
    traces = []
    with progress(name, len(problems) * section.samples, "trace") as bar:
        tokens = 0
        for trace in engine.stream(prompts, params):
            if trace.finish_reason == "error":
                problem = problems[trace.prompt_index]
                raise UserError(f"the engine failed on problem {problem.id}: {trace.error}")
            trace.problem_id = problems[trace.prompt_index].id
            trace.logprobs, trace.sampling_logprobs = [], []  # half of what a long benchmark would hold in memory
            traces.append(trace)
            tokens += trace.num_tokens
            bar.advance(tokens=tokens)
    return sorted(traces, key=lambda trace: (trace.prompt_index, trace.sample_index))


def _examples(
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    traces: Sequence[Trace],
    verdicts: Sequence[Verdict],
    n: int,
) -> list[dict[str, Any]]:
    """Per family the first answers to its first problems, then, when all of these came out alike, one that did not."""
    shown = []
    for family in sorted({problem.family for problem in problems}):
        members = [i for i, problem in enumerate(problems) if problem.family == family]
        chosen = [i * n for i in members[:EXAMPLES_PER_FAMILY]]
        for kind in (True, False):
            if all(is_correct(verdicts[k]) != kind for k in chosen):
                every = (k for i in members for k in range(i * n, (i + 1) * n))
                chosen += [k for k in every if is_correct(verdicts[k]) == kind][:1]
        shown += [example(tokenizer, problems[k // n], traces[k], verdicts[k]) for k in chosen]
    return shown
