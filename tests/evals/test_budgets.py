"""Votes over kept answers at budgets: against counting by hand, and what is not priced."""

from collections import Counter
from contextlib import contextmanager
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.config import EvalSection, ScalingSection
from h1r.evals.benchmark import result_of
from h1r.evals.budgets import at_budgets, cons_at_n
from h1r.evals.samples import Samples
from h1r.records import Problem, Trace, Verdict

TWO_OF_FOUR = ScalingSection(warmup=2, keep_top=0.5, window=2, budgets=[4])
LETTERS = st.sampled_from(["a", "b", "c", None, "unscored"])


@contextmanager
def kept(tmp_path, answers, confidences=None, verifier="choice", tokens=4):
    """Samples of problems with reference "a", a list of answers each: None nothing found, "unscored" no verdict."""
    problems = [Problem(f"p{i}", "which?", "a", verifier) for i in range(len(answers))]
    path = tmp_path / "s.jsonl"
    path.unlink(missing_ok=True)
    with Samples(path, problems, len(answers[0])) as samples:
        for i, of in enumerate(answers):
            for j, answer in enumerate(of):
                sure = [confidences[i][j]] * tokens if confidences else []
                samples.add([Trace(i, j, list(range(tokens)), f"{i} {j} {answer}", [], [], sure, "stop")])
                told = {None: (0.0, None, "not_extracted"), "unscored": (0.0, "a", "unscored")}
                reward, read, reason = told.get(answer, (float(answer == "a"), answer, None))
                samples.grade([(i, j)], [Verdict(reward, extracted=read, reason=reason)])
        yield samples


def nobody(problems, texts):
    raise AssertionError("texts need no verifier to be compared")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 7), st.data())
def test_majority_is_the_count_of_each_block_and_begins_at_pass_at_1(tmp_path_factory, count, n, data):
    answers = [[data.draw(LETTERS) for _ in range(n)] for _ in range(count)]
    with kept(tmp_path_factory.mktemp("b"), answers) as samples:
        found = at_budgets(samples, ScalingSection(method="majority"), nobody)
    accuracies = {}
    for budget in sorted({*(2**i for i in range(3) if 2**i <= n), n}):
        problems = []
        for of in answers:
            grades = []
            for start in range(0, n - budget + 1, budget):
                scored = [one for one in of[start : start + budget] if one != "unscored"]
                votes = Counter(one for one in scored if one is not None).most_common(1)
                grades += [float(bool(votes) and votes[0][0] == "a")] if scored else []
            problems += [fmean(grades)] if grades else []
        accuracies[budget] = problems
    if not accuracies[1]:
        assert found is None
        return
    assert [row["budget"] for row in found["rows"]] == list(accuracies)
    for row in found["rows"]:
        expected = accuracies[row["budget"]]
        assert (row["majority"] is None) == (not expected)
        if expected:
            assert row["majority"]["accuracy"] == pytest.approx(fmean(expected))
            assert row["majority"]["tokens"] == 4 * row["budget"] * count
        assert row["deepconf"] is None


def test_deepconf_stops_and_votes_as_its_settings_say(tmp_path):
    # The threshold is 4, between the warm-up's 5 and 3; the last trace is stopped at its first window of 2 tokens.
    with kept(tmp_path, [["a", "b", "b", "a"]], [[5.0, 3.0, 6.0, 1.0]]) as samples:
        found = at_budgets(samples, TWO_OF_FOUR, nobody)
        literal = at_budgets(samples, TWO_OF_FOUR.model_copy(update={"voter": "majority"}), nobody)
    one, two, four = found["rows"]
    assert one["deepconf"] is None  # below the warm-up
    assert (two["deepconf"]["accuracy"], two["deepconf"]["tokens"]) == (0.5, 8.0)  # a of a and b; b of b and a
    assert (four["majority"]["accuracy"], four["majority"]["tokens"]) == (1.0, 16.0)  # two each, and a came first
    assert (four["deepconf"]["accuracy"], four["deepconf"]["tokens"]) == (0.0, 14.0)  # 5 for a, 6 for b
    assert literal["rows"][2]["deepconf"]["accuracy"] == 1.0  # one vote each
    assert found["settings"] != literal["settings"]
    assert (found["lacks"], found["method"]) == ([], "deepconf")


def test_without_confidences_there_is_majority_alone(tmp_path):
    with kept(tmp_path, [["a", "b", "a", "a"]]) as samples:
        found = at_budgets(samples, TWO_OF_FOUR, nobody)
        assert found["lacks"] == ["confidences"]
        assert [row["deepconf"] for row in found["rows"]] == [None] * 3
        assert cons_at_n(found) == 1.0
        short = at_budgets(samples, ScalingSection(method="short_1"), nobody)
        assert (short["lacks"], short["rows"][1]["deepconf"]["accuracy"]) == ([], 1.0)
    with kept(tmp_path, [["a", "b"]], tokens=0) as samples:
        found = at_budgets(samples, ScalingSection(method="short_1"), nobody)
        assert (found["lacks"], found["rows"][0]["majority"]["tokens"]) == (["tokens"], None)
        assert found["rows"][0]["majority"]["accuracy"] == 0.5


def test_tokens_that_no_server_stated_are_unknown_and_not_none(tmp_path):
    for tokens, mean in ((4, 4.0), (0, None)):
        with kept(tmp_path, [["a", "b"]], tokens=tokens) as samples:
            assert result_of(samples, EvalSection(samples=2), 0, 1.0).mean_tokens == mean


def test_answers_that_cannot_be_the_same_have_no_votes(tmp_path):
    for verifier, n in (("code", 2), ("choice", 1)):
        with kept(tmp_path, [["a"] * n], verifier=verifier) as samples:
            assert at_budgets(samples, TWO_OF_FOUR, nobody) is None
