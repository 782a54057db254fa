"""Other ways to spend a budget of traces, against what their papers say in words."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.methods import METHODS, AdaptiveConsistency, Borda, Recorded, Shortest, loop_end, solved


def trace(length: int, sure: float = 5.0, index: int = 0, reason: str = "stop") -> Trace:
    return Trace(
        problem_id="p", prompt_index=0, sample_index=index, token_ids=[1] * length, logprobs=[], sampling_logprobs=[],
        confidences=[sure] * length, text="", finish_reason=reason,
    )  # fmt: skip


def recorded(*given: tuple[str | None, int, float]) -> Recorded:
    """(answer, tokens, nats) of each trace."""
    traces = [trace(length, sure, index) for index, (_, length, sure) in enumerate(given)]
    return Recorded(traces, [answer for answer, _, _ in given], AnswerGroups(lambda a, b: a.strip() == b.strip()))


@st.composite
def problems(draw: st.DrawFn) -> Recorded:
    row = st.tuples(st.sampled_from(["a", "b", "c", " a", None]), st.integers(1, 9), st.sampled_from([1.0, 2.0, 3.0]))
    return recorded(*draw(st.lists(row, min_size=1, max_size=12)))


def test_adaptive_consistency_stops_when_the_leader_is_surely_ahead() -> None:
    four = recorded(*[("a", 10, 1.0)] * 8)
    assert AdaptiveConsistency().solve(four).tokens == [10] * 4 + [0] * 4  # 1 - 2^-4 = 0.94 of three, 0.97 of four
    split = recorded(*[("a", 10, 1.0), ("b", 10, 1.0)] * 4)
    assert AdaptiveConsistency().solve(split).tokens == [10] * 8
    assert AdaptiveConsistency(0.7).solve(four).tokens == [10] + [0] * 7


def test_the_first_traces_that_end_are_all_that_count() -> None:
    several = recorded(("b", 9, 1.0), ("a", 2, 1.0), ("b", 4, 1.0), ("c", 3, 1.0), ("b", 8, 1.0))
    found = Shortest(1).solve(several)
    assert (found.vote.answer, found.vote.index, found.tokens) == ("a", 1, [2, 2, 2, 2, 2])
    found = Shortest(3).solve(several)
    assert (found.vote.answer, found.vote.index, found.tokens) == ("a", 1, [4, 2, 4, 3, 4])  # a tie goes to the shorter
    assert Shortest(5).solve(several).vote.answer == "b"


def test_a_trace_weighs_by_its_rank() -> None:
    several = recorded(("a", 1, 1.0), ("b", 1, 9.0), ("a", 1, 2.0), (None, 1, 99.0))
    assert METHODS["best_of_n"].solve(several).vote.answer == "b"
    assert Borda(1.0).solve(several).vote.totals == {"b": 3.0, "a": 3.0}
    assert Borda(0.0).solve(several).vote.answer == "a"
    assert Borda(2.0).solve(several).vote.answer == "b"


def slow_loop_end(ids: list[int], repeats: int, period: int, shortest: int) -> int | None:
    for end in range(1, len(ids) + 1):
        for size in range(1, period + 1):
            span = max(repeats * size, shortest)
            if end >= span and repeats * size <= len(ids) and all(
                ids[at] == ids[at - size] for at in range(end - span + size, end)
            ):  # fmt: skip
                return end
    return None


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(2, 4), st.integers(1, 5), st.integers(1, 12))
def test_a_loop_ends_where_its_slow_definition_says(ids: list[int], repeats: int, period: int, shortest: int) -> None:
    assert loop_end(ids, repeats, period, shortest) == slow_loop_end(ids, repeats, period, shortest)


def test_a_trace_that_loops_ends_there_and_does_not_vote() -> None:
    several = recorded(("a", 900, 9.0), ("a", 900, 9.0), ("b", 40, 1.0))  # of one token again and again
    solution = solved(METHODS["no_loops"], several, 0)
    assert (solution.answer, solution.states) == ("b", ["cancelled", "cancelled", "voted"])
    assert [one.num_tokens for one in solution.traces] == [64, 64, 40]


@given(problems())
def test_methods_equal_their_slow_definitions(one: Recorded) -> None:
    answers = [None if answer is None else answer.strip() for answer in one.answers]
    lengths = [t.num_tokens for t in one.traces]
    for m in (1, 3):
        found = Shortest(m).solve(one)
        vote, spent = found.vote, found.tokens
        ended = sorted(range(len(one)), key=lambda i: lengths[i])[:m]
        counts = Counter(answers[i] for i in ended if answers[i] is not None)
        if counts:
            leaders = {answer for answer, votes in counts.items() if votes == max(counts.values())}
            assert (vote.answer or "").strip() == next(answers[i] for i in ended if answers[i] in leaders)
        else:
            assert vote.answer is None
        assert sum(spent) == sum(min(length, lengths[ended[-1]]) for length in lengths)
    best = METHODS["best_of_n"].solve(one).vote
    sureness = [s if a is not None else -1.0 for s, a in zip(one.sureness(), answers, strict=True)]
    assert best.index == (sureness.index(max(sureness)) if max(sureness) >= 0 else None)


def test_of_traces_that_end_in_one_step_the_first_are_asked() -> None:
    tied = recorded((None, 3, 1.0), ("a", 3, 1.0))
    solution = solved(Shortest(1), tied, 0)
    assert (solution.answer, solution.states, solution.tokens_total) == (None, ["no_answer", "cancelled"], 6)


@given(problems(), st.sampled_from(sorted(METHODS)))
def test_every_token_is_counted_once_and_no_trace_votes_that_did_not_end(one: Recorded, name: str) -> None:
    solution = solved(METHODS[name], one, 3)
    spent = METHODS[name].solve(one).tokens
    assert solution.prompt_index == 3
    assert [t.num_tokens for t in solution.traces] == spent
    assert sum(solution.tokens.values()) == solution.tokens_total <= sum(t.num_tokens for t in one.traces)
    if solution.answer is None:
        assert not any(answer for answer, state in zip(one.answers, solution.states, strict=True) if state == "voted")
    else:
        assert solution.vote.index is not None
        assert solution.states[solution.vote.index] == "voted"
        assert one.answers[solution.vote.index] == solution.answer


@pytest.mark.parametrize("name", METHODS)
def test_a_problem_whose_traces_failed_has_no_answer(name: str) -> None:
    failed = Recorded.read(
        [trace(0, reason="error"), trace(0, reason="error")], lambda text: "a", AnswerGroups(str.__eq__)
    )
    solution = solved(METHODS[name], failed, 0)
    assert (solution.answer, solution.tokens_total) == (None, 0)
    assert set(solution.states) <= {"error", "cancelled"}
