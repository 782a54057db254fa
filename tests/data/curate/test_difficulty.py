import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_memory import length_class

from h1r.config import RLPoolSection
from h1r.data.curate.rules.difficulty import (
    Rollouts,
    judge_for_rl,
    pass_rate_class,
    select_for_rl,
)
from h1r.records import FinishReason, Message, Problem, Sample, Verdict

NONE_KEPT = RLPoolSection(keep_unsolved_share=0, keep_overlong_share=0)
ALL_KEPT = RLPoolSection(keep_unsolved_share=1, keep_overlong_share=1)


def sample(problem_id: str, length: int, family: str = "f", trace: int = 0) -> Sample:
    messages = [Message("user", "q"), Message("assistant", "x", "t" * (length - 1))]
    return Sample(problem_id, messages, family, metadata={"trace": trace})


def rollouts(solved: int, answers: list[str | None] | None = None, finish: FinishReason = "stop") -> Rollouts:
    verdicts = [Verdict(1.0)] * solved + [Verdict(0.0)] * (8 - solved)
    return Rollouts(verdicts, answers or [str(n) for n in range(8)], [finish] * 8)


def problem(problem_id: str = "p") -> Problem:
    return Problem(problem_id, "q", "a", difficulty={"knob": 3})


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.floats(0, 0.5), st.floats(0, 0.5))
def test_length_classes_are_what_counting_says(lengths: list[int], easy: float, hard: float) -> None:
    ordered = sorted(lengths)
    for length in lengths:
        as_long = sum(other >= length for other in lengths)
        as_short = sum(other <= length for other in lengths)
        slow = "medium"
        if as_short <= easy * len(lengths):
            slow = "easy"
        if as_long <= hard * len(lengths):
            slow = "hard"
        assert length_class(length, ordered, easy, hard) == slow


def test_a_family_of_one_length_is_medium() -> None:
    assert length_class(7, [7] * 10, 0.25, 0.25) == "medium"


def test_pass_rate_classes() -> None:
    found = [pass_rate_class(rate, easy_share=0.25, hard_share=0.25) for rate in (0, 0.25, 0.3, 0.7, 0.75, 1)]
    assert found == ["hard", "hard", "medium", "medium", "easy", "easy"]


@pytest.mark.parametrize("solved", range(9))
def test_only_sometimes_solved_problems_are_kept(solved: int) -> None:
    decision = judge_for_rl(problem(), rollouts(solved), NONE_KEPT)
    assert decision.keep == (0 < solved < 8)
    assert decision.problem.difficulty["pass_rate"] == solved / 8


def test_always_solved_is_dropped_whatever_the_shares() -> None:
    assert not judge_for_rl(problem(), rollouts(8), ALL_KEPT).keep


def test_agreement_on_a_wrong_answer_drops_the_problem() -> None:
    scattered: list[str | None] = ["1", "2", "3", "4", "5"]
    three = judge_for_rl(problem(), rollouts(0, ["X.", " x", "x", *scattered]), ALL_KEPT)
    four = judge_for_rl(problem(), rollouts(0, ["X.", " x", "x", "x", *scattered[1:]]), ALL_KEPT)
    assert (three.keep, three.problem.difficulty["majority"]) == (True, 3)
    assert (four.keep, four.problem.difficulty["majority"]) == (False, 4)
    assert "wrong label" in four.reason


def test_rollouts_without_an_answer_do_not_vote() -> None:
    assert judge_for_rl(problem(), rollouts(0, [None] * 8), ALL_KEPT).problem.difficulty["majority"] == 0


def test_all_overlong_is_judged_by_its_own_share_even_when_answers_agree() -> None:
    overlong = rollouts(0, ["x"] * 8, "length")
    assert judge_for_rl(problem(), overlong, RLPoolSection(keep_overlong_share=1, keep_unsolved_share=0)).keep
    decision = judge_for_rl(problem(), overlong, RLPoolSection(keep_overlong_share=0, keep_unsolved_share=1))
    assert not decision.keep
    assert decision.problem.difficulty == {"knob": 3, "pass_rate": 0.0, "majority": 8, "overlong": 1.0}


def test_one_rollout_that_ended_is_enough_for_the_majority_rule() -> None:
    mixed = dataclasses.replace(rollouts(0, ["x"] * 8), finish_reasons=["length"] * 7 + ["stop"])
    assert "wrong label" in judge_for_rl(problem(), mixed, ALL_KEPT).reason


def test_the_random_share_depends_on_the_problem_only() -> None:
    section = RLPoolSection(keep_unsolved_share=0.3)
    pool = [problem(f"p{n}") for n in range(2000)]
    outcome = {item.id: rollouts(0) for item in pool}
    kept = {item.id for item in select_for_rl(pool, outcome, section)[0]}
    again = {item.id for item in select_for_rl(pool[::-2], outcome, section)[0]}
    assert again == kept & {item.id for item in pool[::-2]}
    assert 0.25 < len(kept) / len(pool) < 0.35


def test_selection_accounts_for_every_problem() -> None:
    pool = [problem(f"p{n}") for n in range(9)]
    kept, dropped = select_for_rl(pool, {f"p{n}": rollouts(n) for n in range(9)}, NONE_KEPT)
    assert [item.id for item in kept] == [f"p{n}" for n in range(1, 8)]
    assert [(item.id, item.reason) for item in dropped] == [
        ("p0", "never solved, answers scatter"),
        ("p8", "always solved"),
    ]


def test_rollouts_that_disagree_in_number_are_refused() -> None:
    with pytest.raises(ValueError, match="8 verdicts, 7 answers"):
        Rollouts([Verdict(1.0)] * 8, ["x"] * 7, ["stop"] * 8)
    with pytest.raises(ValueError, match="not be empty"):
        Rollouts([], [], [])
