from hypothesis import given
from hypothesis import strategies as st

from h1r.data.curate.rules.filters import (
    EXCERPT_CHARS,
    REASON_PHRASES,
    Candidate,
    empty_rule,
    excerpt,
    format_rule,
    incorrect_rule,
    num_chars,
    overlong_rule,
    repetition_rule,
    trace_rules,
    unboxed_rule,
)
from h1r.records import REASONS, Message, Problem, Sample, Verdict

GOOD = r"The answer is \boxed{4}."


def candidate(
    thinking: str | None = "2 + 2 = 4", content: str = GOOD, verdict: Verdict | None = None, verifier: str = "math"
) -> Candidate:
    problem = Problem(id="p", question="What is 2 + 2?", answer="4", verifier=verifier)
    messages = [Message("user", problem.question), Message("assistant", content, thinking)]
    sample = Sample("p", messages, metadata={"trace": 3})
    return Candidate(problem, sample, verdict or Verdict(1.0))


def test_a_good_trace_passes_every_rule() -> None:
    assert [rule(candidate()) for _, rule in trace_rules(max_chars=1000)] == [None] * 5


def test_empty_thinking_and_empty_answer_are_told_apart() -> None:
    assert empty_rule(candidate(thinking=None)) == "empty thinking"
    assert empty_rule(candidate(thinking=" \n")) == "empty thinking"
    assert empty_rule(candidate(content="\t")) == "empty answer"


def test_partial_credit_is_not_correct() -> None:
    assert incorrect_rule(candidate(verdict=Verdict(0.99))) == "wrong answer"
    assert incorrect_rule(candidate(verdict=Verdict(0.0, {"tests_total": 3.0}))) == "fails its tests"


def test_the_ledger_counts_incorrect_traces_by_their_reason() -> None:
    found = {reason: incorrect_rule(candidate(verdict=Verdict(0.0, reason=reason))) for reason in REASONS}
    assert found == REASON_PHRASES
    assert len(set(found.values())) == len(REASONS)


def test_boxed_is_asked_for_only_where_the_verifier_reads_it() -> None:
    assert unboxed_rule(candidate(content="The answer is 4.")) == "no \\boxed{} answer"
    assert unboxed_rule(candidate(content=r"The answer is \boxed{4")) == "no \\boxed{} answer"
    assert unboxed_rule(candidate(content=r"\boxed{ }")) == "no \\boxed{} answer"
    assert unboxed_rule(candidate(content="The answer is 4.", verifier="exact")) is None


@given(st.text(max_size=30), st.text(max_size=30), st.integers(1, 60))
def test_the_cap_counts_thinking_and_answer_together(thinking: str, content: str, cap: int) -> None:
    found = candidate(thinking, content)
    assert num_chars(found.sample) == len(thinking) + len(content)
    assert (overlong_rule(cap)(found) is not None) == (len(thinking) + len(content) > cap)


def test_a_trace_in_a_loop_is_dropped_and_a_long_regular_one_is_not() -> None:
    loop = "So we add one more and look again. " * 30
    regular = "\n".join(f"{n} + {n + 1} = {2 * n + 1}" for n in range(100))
    assert repetition_rule(candidate(thinking=loop)) == "repeats itself"
    assert repetition_rule(candidate(thinking=regular)) is None


@given(st.text(max_size=1000))
def test_an_excerpt_is_short_and_keeps_both_ends(text: str) -> None:
    short = excerpt(text)
    assert len(short) <= EXCERPT_CHARS
    assert short == text if len(text) <= EXCERPT_CHARS else (text.startswith(short[:90]) and text.endswith(short[-90:]))


def test_a_tag_of_thinking_inside_a_turn_is_not_well_formed_as_rl_has_it() -> None:
    assert format_rule(candidate()) is None
    assert format_rule(candidate(thinking="one </think> two")) == "not well-formed"
    assert format_rule(candidate(content="<think>again</think> " + GOOD)) == "not well-formed"
    before = candidate()
    before.sample.messages[:0] = [Message("user", "What does <think> mean?"), Message("assistant", "It is <think>.")]
    assert format_rule(before) == "not well-formed"


def test_data_without_thinking_pass_where_it_is_optional() -> None:
    rules = dict(trace_rules(0, needs_thinking=False))
    assert rules["empty"](candidate(thinking=None)) is None
    assert rules["empty"](candidate(thinking=None, content=" ")) == "empty answer"
    assert rules["empty"](candidate(thinking=None, content="<think>half")) == "not well-formed"


def test_a_conversation_without_a_turn_that_carries_loss_is_dropped() -> None:
    silent = candidate()
    silent.sample.metadata["loss_turns"] = [0, 0]
    assert dict(trace_rules(0))["empty"](silent) == "no turn carries loss"
