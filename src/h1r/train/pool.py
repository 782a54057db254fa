"""The RL pool: which problems the SFT model sometimes solves (arXiv 2601.02346, section 3.1, Figure 9).

curate/problems_rl.jsonl -> 8 rollouts each -> verdicts -> keep or drop, with reasons -> rl_pool/pool.jsonl
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from h1r.config import Recipe
from h1r.data.chat import prompt_ids
from h1r.data.difficulty import Rollouts, select_for_rl
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.choose import open_engine
from h1r.engine.protocol import SamplingParams, refuse_when_all_failed
from h1r.progress import progress
from h1r.records import Problem, Trace, read_jsonl, write_jsonl
from h1r.run import Run, write_json
from h1r.train.start import loaded
from h1r.verify import open_backend, with_max_tests


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
        prompts = [prompt_ids(tokenizer, problem.question, recipe.chat.system_prompt) for problem in problems]
        params = SamplingParams(
            n=section.rollouts,
            temperature=section.temperature,
            top_p=section.top_p,
            max_tokens=recipe.rl.max_tokens,
            seed=recipe.seed,
        )
        traces: list[Trace] = []
        with progress("RL pool", total=len(problems) * section.rollouts, unit="rollout") as bar:
            for trace in engine.stream(prompts, params):
                # Of a trace only what is graded is kept: a pool of long rollouts would not fit into memory otherwise.
                trace.token_ids, trace.logprobs, trace.sampling_logprobs, trace.confidences = [], [], [], []
                traces.append(trace)
                bar.advance(1)
        refuse_when_all_failed(traces)
        traces.sort(key=lambda trace: (trace.prompt_index, trace.sample_index))
        tested = [
            with_max_tests(problem, recipe.rl.max_tests, recipe.seed, recipe.rl.partial_credit) for problem in problems
        ]
        verdicts = pool.verify_many([tested[t.prompt_index] for t in traces], [t.text for t in traces])
        rollouts = {}
        for i, problem in enumerate(problems):
            part = slice(i * section.rollouts, (i + 1) * section.rollouts)
            judged = verdicts[part]
            rollouts[problem.id] = Rollouts(
                judged, [verdict.extracted for verdict in judged], [trace.finish_reason for trace in traces[part]]
            )
        kept, dropped = select_for_rl(problems, rollouts, section)
        solved = Counter(one.solved for one in rollouts.values())
        stage = run.stage("rl_pool")
        write_jsonl(stage / "pool.jsonl", kept)
        write_jsonl(stage / "dropped.jsonl", dropped)
        reasons = Counter(one.reason for one in dropped)
        summary = {
            "table": [
                {
                    "step": "pass rate",
                    "unit": "problem",
                    "in": len(problems),
                    "out": len(kept),
                    "reasons": dict(reasons.most_common()),
                }
            ],
            "pass_rate_histogram": [solved.get(k, 0) for k in range(section.rollouts + 1)],
        }
        write_json(stage / "summary.json", summary)
    return summary
