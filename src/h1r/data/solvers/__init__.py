"""Worked traces: small solvers, family by family, that write their steps down.

    traces(problem, count, rng) -> up to `count` assistant messages, all different, the plainest form first

A problem of a family that has no solver, but with a worked `solution` in its metadata, gets that text as its thinking.
The final answer always stands in `\\boxed{}`, as the paper's filter for mathematics asks (arXiv 2601.02346, section 2).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from h1r.data.solvers import algebra, arithmetic, sequences, stories, times
from h1r.data.solvers.base import Solver, Worked
from h1r.data.wordings import is_wording
from h1r.records import Message, Problem
from h1r.verify import is_generated

SOLVERS: dict[str, Solver] = {
    "aiw": stories.aiw,
    "chain_sum": arithmetic.chain_sum,
    "coin_flip": arithmetic.coin_flip,
    "count_bits": arithmetic.count_bits,
    "family_relationships": stories.family_relationships,
    "gcd": arithmetic.gcd,
    "lcm": arithmetic.lcm,
    "leg_counting": stories.leg_counting,
    "letter_counting": sequences.letter_counting,
    "number_filtering": sequences.number_filtering,
    "number_sorting": sequences.number_sorting,
    "prime_factorization": arithmetic.prime_factorization,
    "products": arithmetic.products,
    "simple_equations": algebra.simple_equations,
    "simple_geometry": algebra.simple_geometry,
    "spell_backward": sequences.spell_backward,
    "time_intervals": times.time_intervals,
    "word_sequence_reversal": sequences.word_sequence_reversal,
}
"""Families of `reasoning-gym` with a solver."""

TRIES_PER_TRACE = 8
"""Candidates looked at per trace asked for, since random orders repeat."""


def can_trace(problem: Problem) -> bool:
    """Whether there is anything to make traces from: a solver of its family, or a worked solution."""
    return _solver(problem) is not None


def traces(problem: Problem, count: int, rng: random.Random) -> list[Message]:
    """Up to `count` different worked traces, deterministic in `rng`; fewer where the problem has fewer, none unsolved.

    The first one is the family's plainest form and does not depend on `rng`. The answers are the solver's own: whether
    they are right is for the verifier to say.
    """
    solver = _solver(problem)
    if solver is None:
        return []
    entry: Any = problem.metadata.get("entry")
    if is_generated(problem) and is_wording(problem.question, problem.family, entry):
        problem = replace(problem, question=str(entry["question"]))  # solvers read the library's wording
    found: dict[str, Message] = {}
    for worked in itertools.islice(solver(problem, rng), count * TRIES_PER_TRACE):
        thinking = "\n".join(worked.lines)
        if len(found) < count and thinking not in found:
            content = f"The answer is \\boxed{{{worked.answer}}}."
            found[thinking] = Message(role="assistant", content=content, thinking=thinking)
    return list(found.values())


def from_solution(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """The worked solution that came with the problem, without GSM8K's `<<...>>` and `####` marks."""
    text = str(problem.metadata["solution"])
    body = re.sub(r"<<[^<>]*>>", "", text.rpartition("####")[0] if "####" in text else text).strip()
    if body:
        yield Worked([body], problem.answer)


def _solver(problem: Problem) -> Solver | None:
    if is_generated(problem):
        return SOLVERS.get(problem.family)
    return from_solution if problem.metadata.get("solution") else None
