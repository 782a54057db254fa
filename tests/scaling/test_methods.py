"""Methods of test-time scaling on traces that are played back, against what their papers say in words."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.common.scaling_methods import METHODS
from h1r.config import ScalingSection, load_recipe
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.records import Trace
from h1r.response.loops import Loop, LoopWatch, loop_end
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.ballot import Ballot, Method, Solution
from h1r.scaling.bayesian_stopping import leads, shape_of
from h1r.scaling.methods import method_of, option_names, posterior
from h1r.scaling.replay import simulate_many

SECTION = ScalingSection(budgets=[1], warmup=2, window=2, method="majority")
SHAPES = [[0.6, 0.3, 0.1], [0.9, 0.1], [1.0]]
OPTIONS: dict[str, dict[str, Any]] = {"bayesian_stopping": {"shapes": SHAPES}}
NAMES = [name for name in METHODS if name != "deepconf"]

Given = tuple[str | None, int, float]
"""Answer, tokens and nats of a trace."""


def trace(index: int, answer: str | None, length: int, sure: float, reason: str = "stop") -> Trace:
    return Trace(
        problem_id="p", prompt_index=0, sample_index=index, token_ids=[1] * length, sampling_logprobs=[],
        logprobs=[-1 / sure] * length, confidences=[sure] * length, text=answer or "", finish_reason=reason,
    )  # fmt: skip


def at(name: str, budget: int, **options: Any) -> Method:
    return method_of(SECTION, budget, name, **{**OPTIONS.get(name, {}), **options})


def play(method: Method, traces: list[Trace], slots: int | None = None) -> Solution:
    groups = [AnswerGroups(lambda a, b: a.strip() == b.strip())]
    return simulate_many([traces], method, slots=slots, extract=lambda text: text or None, groups=groups)[0]


def solve(name: str, *given: Given, **options: Any) -> Solution:
    return play(at(name, len(given), **options), [trace(i, *one) for i, one in enumerate(given)])


def lengths(solution: Solution) -> list[int]:
    return [one.num_tokens for one in solution.traces]


problems = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", " a", None]), st.integers(1, 9), st.sampled_from([1.0, 2.0, 3.0])),
    min_size=1, max_size=12,
)  # fmt: skip


def test_adaptive_consistency_stops_when_the_leader_is_surely_ahead() -> None:
    same, split = [("a", 10, 1.0)] * 8, [("a", 10, 1.0), ("b", 10, 1.0)] * 4
    found = solve("adaptive_consistency", *same)
    assert (lengths(found), found.stop_reason) == ([10] * 4, "consensus")  # 1 - 2^-4 = 0.94 of three, 0.97 of four
    found = solve("adaptive_consistency", *split)
    assert (lengths(found), found.stop_reason) == ([10] * 8, "budget")
    assert lengths(solve("adaptive_consistency", *same, certain=0.7)) == [10]


def test_esc_stops_after_a_window_of_one_answer() -> None:
    several: list[Given] = [("a", 1, 1.0), ("b", 1, 1.0), (" b", 1, 1.0), ("b", 1, 1.0), ("b", 1, 1.0), ("a", 1, 1.0)]
    found = solve("esc", *several, window=2)
    assert (found.answer, len(found.traces), found.stop_reason) == ("b", 4, "consensus")
    assert len(solve("esc", *[(None, 1, 1.0)] * 5, window=2).traces) == 5  # no answer is no agreement


def test_the_first_traces_that_end_are_all_that_count() -> None:
    several: list[Given] = [("b", 9, 1.0), ("a", 2, 1.0), ("b", 4, 1.0), ("c", 3, 1.0), ("b", 8, 1.0)]
    found = solve("short_1", *several)
    assert (found.answer, found.vote.index, lengths(found)) == ("a", 1, [2, 2, 2, 2, 2])
    found = solve("short_3", *several)
    assert (found.answer, found.vote.index, lengths(found)) == ("a", 1, [4, 2, 4, 3, 4])  # a tie goes to the shorter
    assert found.stop_reason == "first ended"
    tied = solve("short_1", (None, 3, 1.0), ("a", 3, 1.0))
    assert (tied.answer, tied.states, tied.tokens_total) == (None, ["no_answer", "cancelled"], 6)


def test_a_trace_weighs_by_its_rank() -> None:
    several: list[Given] = [("a", 1, 1.0), ("b", 1, 9.0), ("a", 1, 2.0), (None, 1, 99.0)]
    assert solve("best_of_n", *several).answer == "b"
    assert solve("borda", *several).vote.totals == {"b": 3.0, "a": 3.0}
    assert solve("borda", *several, power=0.0).answer == "a"
    assert solve("borda", *several, power=2.0).answer == "b"


def test_cges_is_bayes_rule_over_the_answers_seen_and_one_unseen() -> None:
    found = posterior(["a", "a", "b"], [0.8, 0.7, 0.6])
    exact = {"a": Fraction(8 * 7 * 2, 1000), "b": Fraction(2 * 3 * 6, 1000) / 4, "other": Fraction(2 * 3 * 4, 1000) / 8}
    exact["a"] *= Fraction(4, 2) / 2  # (1 - 0.6) / 2 of the third trace
    whole = sum(exact.values())
    assert found == pytest.approx({one: float(exact[one] / whole) for one in ("a", "b")})
    sure: list[Given] = [("a", 5, 9.0)] * 6  # exp(-1/9) = 0.89 a trace
    stopped = solve("cges", *sure)
    assert (len(stopped.traces), stopped.stop_reason) == (2, "consensus")
    assert stopped.vote.share == pytest.approx(posterior(["a", "a"], [math.exp(-1 / 9)] * 2)["a"])
    assert len(solve("cges", *[("a", 5, 0.5)] * 6).traces) == 6  # exp(-2): the unseen answer is likelier


def slow_lead(shapes: list[list[float]], first: int, second: int, others: int) -> float:
    """Over all sequences of answers with these votes, a random one of those that are equally far ahead being the
    leader: how often it is the likeliest."""
    right = every = 0.0
    for shape in shapes:
        for drawn in itertools.product(range(len(shape)), repeat=first + second + others):
            counts = Counter(drawn)
            top = [*(count for _, count in counts.most_common()), 0]
            if (top[0], top[1], sum(top[2:])) == (first, second, others):
                mass = math.prod(shape[one] for one in drawn)
                ahead = [one for one in counts if counts[one] == first]
                every += mass
                right += mass * sum(shape[one] == max(shape) for one in ahead) / len(ahead)
    return right / every if every else 0.0


@pytest.mark.parametrize(
    "votes", [(1, 0, 0), (3, 0, 0), (2, 1, 0), (1, 1, 0), (1, 1, 1), (2, 2, 1), (3, 1, 2), (2, 1, 2)]
)
def test_the_posterior_of_bayesian_stopping_is_that_of_all_sequences(votes: tuple[int, int, int]) -> None:
    shapes = [[0.5, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.2]]
    assert leads(tuple(map(shape_of, shapes)), *votes) == pytest.approx(slow_lead(shapes, *votes))


def test_bayesian_stopping_trusts_one_answer_where_problems_are_easy() -> None:
    same: list[Given] = [("a", 1, 1.0)] * 8
    assert len(solve("bayesian_stopping", *same, shapes=[[0.97, 0.03], [0.9, 0.1]], certain=0.9).traces) == 1
    assert len(solve("bayesian_stopping", *same, shapes=[[0.4, 0.35, 0.25]]).traces) == 8
    assert 0.5 < leads((shape_of([60, 55] + [40] * 8),), 190, 180, 142) < 1  # no under- and no overflow
    with pytest.raises(UserError, match="needs the answer shapes of other problems"):
        method_of(SECTION, 4, "bayesian_stopping")


def slow_loop_end(ids: list[int], loop: Loop) -> int | None:
    for end in range(1, len(ids) + 1):
        for size in range(1, loop.period + 1):
            span = max(loop.repeats * size, loop.shortest)
            if end >= span and all(ids[at] == ids[at - size] for at in range(end - span + size, end)):
                return end
    return None


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(2, 4), st.integers(1, 5), st.integers(1, 12))
def test_a_loop_ends_where_its_slow_definition_says(ids: list[int], repeats: int, period: int, shortest: int) -> None:
    loop = Loop(repeats, period, shortest)
    watch = LoopWatch(loop)
    seen = [watch.add(one) for one in ids]
    told = seen.index(True) + 1 if True in seen else None
    assert loop_end(ids, loop) == told == slow_loop_end(ids, loop)


def test_a_trace_that_loops_ends_there_and_does_not_vote() -> None:
    solution = solve("no_loops", ("a", 900, 9.0), ("a", 900, 9.0), ("b", 40, 1.0))  # of one token again and again
    assert (solution.answer, solution.states) == ("b", ["stopped", "stopped", "voted"])
    assert [(one.num_tokens, one.finish_reason) for one in solution.traces] == [
        (64, "repetition"), (64, "repetition"), (40, "stop"),
    ]  # fmt: skip


@given(problems)
def test_methods_equal_their_slow_definitions(rows: list[Given]) -> None:
    answers = [None if answer is None else answer.strip() for answer, _, _ in rows]
    tokens = [length for _, length, _ in rows]
    for m in (1, 3):
        found = solve(f"short_{m}", *rows)
        ended = sorted(range(len(rows)), key=lambda i: tokens[i])[:m]
        counts = Counter(answers[i] for i in ended if answers[i] is not None)
        if counts:
            leaders = {answer for answer, votes in counts.items() if votes == max(counts.values())}
            assert (found.answer or "").strip() == next(answers[i] for i in ended if answers[i] in leaders)
        else:
            assert found.answer is None
        assert found.tokens_total == sum(min(length, tokens[ended[-1]]) for length in tokens)
    sureness = [sure if answer is not None else -1.0 for answer, (_, _, sure) in zip(answers, rows, strict=True)]
    best = solve("best_of_n", *rows).vote.index
    assert best == (sureness.index(max(sureness)) if max(sureness) >= 0 else None)


@given(problems, st.sampled_from(NAMES), st.sampled_from([None, 2]))
def test_every_token_is_counted_once_and_no_trace_votes_that_did_not_end(
    rows: list[Given], name: str, slots: int | None
) -> None:
    whole = [trace(i, *one) for i, one in enumerate(rows)]
    solution = play(at(name, len(rows)), whole, slots)
    assert sum(solution.tokens.values()) == solution.tokens_total <= sum(length for _, length, _ in rows)
    for one, state in zip(solution.traces, solution.states, strict=True):
        assert one.num_tokens <= whole[one.sample_index].num_tokens
        assert state in ("cancelled", "stopped") or one.num_tokens == whole[one.sample_index].num_tokens
    if solution.answer is None:
        assert not any(
            one.text for one, state in zip(solution.traces, solution.states, strict=True) if state == "voted"
        )
    else:
        assert solution.vote.index is not None
        assert solution.states[solution.vote.index] == "voted"
        assert solution.traces[solution.vote.index].text == solution.answer


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_whose_traces_failed_has_no_answer(name: str) -> None:
    solution = play(at(name, 2), [trace(i, "a", 0, 1.0, "error") for i in range(2)])
    assert (solution.answer, solution.tokens_total) == (None, 0)
    assert set(solution.states) <= {"error", "cancelled"}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_names_its_paper_or_says_that_it_is_ours(name: str) -> None:
    said = METHODS.require(name).__doc__ or ""
    assert "arXiv " in said or "our choice" in said


def test_a_method_of_ones_own_is_chosen_by_a_recipe(tmp_path: Any) -> None:
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\nimport h1r\nfrom h1r.scaling.ballot import Method\n"
        '@h1r.scaling_method("first_two")\n@dataclass(frozen=True, slots=True)\nclass FirstTwo(Method):\n'
        "    count: int = 2\n    def first(self):\n        return self.count\n"
    )
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nplugins = ["own.py"]\n[scaling]\nmethod = "first_two"\nbudgets = [4]\noptions = { count = 3 }\n'
    )
    section = load_recipe(tmp_path / "mine.toml").scaling
    found = play(method_of(section, 4), [trace(i, "ab"[i % 2], 5, 1.0) for i in range(4)])
    assert (found.answer, lengths(found), found.stop_reason) == ("a", [5, 5, 5], "consensus")


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"unknown scaling method `majorty`; use one of `majority`"):
        ScalingSection(method="majorty")
    with pytest.raises(UserError, match=r'method "esc" has no option `windw`; it has window'):
        method_of(SECTION, 8, "esc", windw=3)
    with pytest.raises(UserError, match=r"window = 1 is out of range"):
        method_of(SECTION, 8, "esc", window=1)
    assert option_names(METHODS.require("no_loops")) == ["repeats", "period", "shortest"]
    assert at("esc", 8).sampling == SamplingParams(
        temperature=0.6, top_p=0.95, max_tokens=65536, confidence_window=2, confidence_top_k=20
    )


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        (
            "no_loops",
            {"period": 1_000_000_000},
            "period = 1000000000 is out of range; give a number of at least 1 and",
        ),
        ("no_loops", {"period": 3.7}, "`period` is a whole number, not 3.7"),
        ("no_loops", {"repeats": 1 << 40}, "repeats = 1099511627776 is out of range"),
        ("esc", {"window": 2.5}, "a whole number"),
        ("esc", {"window": True}, "a whole number"),
        ("adaptive_consistency", {"certain": "x"}, "a number, not 'x'"),
        ("adaptive_consistency", {"certain": 2}, "out of range"),
        ("esc", {"name": 1}, "no option `name`"),
        ("esc", {"budget": 1}, "no option `budget`"),
        ("esc", {"section": 1}, "no option `section`"),
    ],
)
def test_an_option_that_no_engine_should_meet_is_refused(name: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        method_of(SECTION, 8, name, **options)


def test_a_method_asks_for_no_more_than_the_budget() -> None:
    @dataclass(frozen=True, slots=True)
    class Greedy(Method):
        def first(self) -> int:
            return 3

        def more(self, ballot: Ballot) -> int:
            return 10**9

    found = play(Greedy(4), [trace(i, "ab"[i % 2], 5, 1.0) for i in range(4)])
    assert lengths(found) == [5, 5, 5, 5]
