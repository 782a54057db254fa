"""The RL pool: which problems the SFT model sometimes solves (arXiv 2601.02346, section 3.1, Figure 9).

curate/problems_rl.jsonl -> negative controls -> 8 rollouts each -> verdicts -> keep or drop -> rl_pool/pool.jsonl
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from h1r.common.files import write_json
from h1r.common.progress import progress
from h1r.config import ControlsSection, Recipe
from h1r.data.curate.rules.difficulty import Rollouts, select_for_rl
from h1r.data.curate.rules.filters import Dropped, excerpt
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.choose import open_engine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.records import Problem, Trace, read_jsonl, write_jsonl
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import Run
from h1r.train.start import loaded
from h1r.verify import Backend, open_backend, with_max_tests
from h1r.verify.controls import examine_sampled
from h1r.verify.controls.report import family_rows


def build_pool(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Measures pass rates with sft/model and writes rl_pool/{pool.jsonl, dropped.jsonl, summary.json}."""
    tokenizer, source = load_tokenizer(run.need("curate/tokenizer", "curate")), run.need("sft/model", "sft")
    with (
        run.timed("rl_pool", add=False),
        open_backend(recipe.verify, format_checks=False) as pool,
        open_engine(recipe.engine, tokenizer, lambda: loaded(source, recipe.model.kernels), source) as engine,
    ):
        section = recipe.rl_pool
        problems = list(read_jsonl(run.need("curate/problems_rl.jsonl", "curate"), Problem))
        tested = [
            with_max_tests(problem, recipe.rl.max_tests, recipe.seed, recipe.rl.partial_credit) for problem in problems
        ]
        refused, controls = _refused(tested, pool, recipe.controls)
        taken = len(problems)
        out = {one.id for one in refused}
        problems = [problem for problem in problems if problem.id not in out]
        tested = [problem for problem in tested if problem.id not in out]
        if not problems:
            why = refused[0].reason if refused else "there was none"
            raise UserError(f"no RL problem is left ({why}); see the table of `h1r curate` and mend [problems]")
        pipeline = RolloutPipeline(
            engine, tokenizer, pool.verify_many, recipe.chat.system_prompt, recipe.rollout, recipe.environment
        )
        params = SamplingParams(
            n=section.rollouts,
            temperature=section.temperature,
            top_p=section.top_p,
            max_tokens=recipe.rl.max_tokens,
            seed=recipe.seed,
        )
        with progress("RL pool", total=len(problems) * section.rollouts, unit="rollout") as bar:

            def on_trace(trace: Trace) -> None:
                # Of a trace only what is graded is kept: a pool of long rollouts would not fit into memory otherwise.
                trace.token_ids, trace.logprobs, trace.sampling_logprobs, trace.confidences = [], [], [], []
                bar.advance(1)

            graded = pipeline.graded(tested, params, on_trace)
        rollouts = {}
        for i, problem in enumerate(problems):
            part = graded[i * section.rollouts : (i + 1) * section.rollouts]
            rollouts[problem.id] = Rollouts(
                [one.verdict for one in part],
                [one.verdict.extracted for one in part],
                [one.trace.finish_reason for one in part],
            )
        kept, dropped = select_for_rl(problems, rollouts, section)
        solved = Counter(one.solved for one in rollouts.values())
        stage = run.stage("rl_pool")
        write_jsonl(stage / "pool.jsonl", kept)
        write_jsonl(stage / "dropped.jsonl", [*refused, *dropped])
        summary = {
            "table": [
                _row("negative controls", taken, refused),
                _row("pass rate", len(problems), dropped),
            ],
            "controls": controls,
            "pass_rate_histogram": [solved.get(k, 0) for k in range(section.rollouts + 1)],
        }
        write_json(stage / "summary.json", summary)
    return summary


def _refused(
    problems: Sequence[Problem], pool: Backend, section: ControlsSection
) -> tuple[list[Dropped], list[dict[str, Any]]]:
    """The problems that pay an answer which solves nothing under the tests that RL runs, and rows by family."""
    if not section.enabled:
        return [], []
    found = examine_sampled(problems, pool.verify_many, section, references=True)
    pairs = zip(problems, found.refusals, strict=True)
    refused = [Dropped(one.id, "negative controls", why.reason, excerpt(why.detail)) for one, why in pairs if why]
    return refused, family_rows(found.tally, section)


def _row(step: str, taken: int, dropped: Sequence[Dropped]) -> dict[str, Any]:
    reasons = Counter(one.reason for one in dropped)
    return {
        "step": step,
        "unit": "problem",
        "in": taken,
        "out": taken - len(dropped),
        "reasons": dict(reasons.most_common()),
    }
