"""Online DeepConf (arXiv 2508.15260, Algorithm 2; the Falcon-H1R paper, section 5.1), and majority as a case of it.

Per problem, with budget B, N warm-up traces, lowest group confidence C_t of trace t and threshold s:

    1. N traces run to their end.              s = a percentile of their C_t (`stopping_threshold`)
    2. B - N traces run; the engine itself ends a trace whose last full window has a mean confidence below s.
    3. V(a) = sum of the weights of the voting traces that answer a;   beta = max_a V(a) / sum_a V(a)
    4. With tau, nothing more is spent once beta >= tau: checked after the warm-up and after each later trace. Our
       `consensus="lead"` asks this of the probability that the leader is ahead instead (`lead_probability`): a clear
       plurality ends a problem, and 6 votes of 8 do not.

Which traces vote: those that ended by themselves, hold an answer and have C_t >= s. So a warm-up trace below s does not
vote, and neither does a trace that was too short to be stopped but lies below s; both are the reference
implementation's rule. `warmup_votes="all"` lets every warm-up trace vote. When no trace of a problem qualifies at the
end, all its answered traces vote instead (`Solution.fallback`): the reference gives no answer there.
"""

from __future__ import annotations

from collections.abc import Sequence

from h1r.engine.protocol import Engine, Prompt, SamplingParams
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract, extract_answer
from h1r.scaling.ballot import Solution
from h1r.scaling.parameters import DeepConf
from h1r.scaling.run import OnTrace, problem_seed, solve_many

__all__ = ["DeepConf", "majority_baseline", "majority_params", "problem_seed", "solve_many"]


def majority_params(budget: int, sampling: SamplingParams) -> DeepConf:
    """Majority voting as a case of DeepConf: a warm-up that takes the whole budget, and every trace votes."""
    return DeepConf(budget=budget, warmup=budget, keep_top=1.0, voter="majority", warmup_votes="all", sampling=sampling)


def majority_baseline(
    engine: Engine,
    prompts: Sequence[Prompt],
    budget: int,
    sampling: SamplingParams,
    *,
    seeds: Sequence[int],
    extract: Extract | Sequence[Extract] = extract_answer,
    groups: Sequence[AnswerGroups] | None = None,
    on_trace: OnTrace | None = None,
) -> list[Solution]:
    """Self-consistency: `budget` complete traces per prompt, one vote each. Paired with `solve_many` by the seeds."""
    params = majority_params(budget, sampling)
    return solve_many(engine, prompts, params, seeds=seeds, extract=extract, groups=groups, on_trace=on_trace)
