import gzip
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import certainly_equivalent
from h1r.scaling.confidence import Confidence, summarise
from h1r.scaling.voting import VOTERS, Vote, filtered_vote, lead_probability, vote, vote_by

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).parents[3] / "shared" / "data"))
RECORDED = DATA / "deepconf_brumo25_answer_conf" / "traces.jsonl.gz"


def same(left, right):
    return left == right


def same_number(left, right):
    return float(left) == float(right)


answers = st.lists(st.sampled_from(["1", "1.0", "2", "2.00", "3", None]), max_size=30)


@given(answers, st.data())
def test_vote_adds_the_weights_of_equivalent_answers(given_answers, data):
    weights = data.draw(
        st.lists(st.integers(0, 5).map(float), min_size=len(given_answers), max_size=len(given_answers))
    )
    totals: dict[float, float] = {}
    for answer, weight in zip(given_answers, weights, strict=True):
        if answer is not None:
            totals[float(answer)] = totals.get(float(answer), 0) + weight
    found = vote(given_answers, weights, AnswerGroups(same_number))
    assert [float(name) for name in found.totals] == list(totals)
    assert list(found.totals.values()) == list(totals.values())
    if totals:
        best = max(totals.values())
        assert found.weight == best
        # Integer weights sum exactly, so the first group with the best total must win.
        assert float(found.answer) == next(key for key, total in totals.items() if total == best)
        assert found.share == pytest.approx(best / sum(totals.values()) if sum(totals.values()) else 0)
        assert given_answers[found.index] == found.answer
    else:
        assert found == Vote()


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_lead_probability_is_the_binomial_tail_and_ignores_rarer_answers_and_the_unit(first, second, third):
    first, second, third = sorted((first, second, third), reverse=True)
    found = vote("a" * first + "b" * second + "c" * third, [0.3] * (first + second + third), AnswerGroups(same))
    # P(Beta(a + 1, b + 1) > 1/2) = P(at most a heads in a + b + 1 tosses of a fair coin)
    tail = sum(math.comb(first + second + 1, k) for k in range(first + 1)) / 2 ** (first + second + 1)
    assert lead_probability(found) == pytest.approx(tail if first else 0.0, rel=1e-9)


def test_a_lead_of_heavy_votes_is_surer_than_one_of_light_votes():
    probabilities = [lead_probability(vote("aab", [w, w, 1.0], AnswerGroups(same))) for w in (1.0, 1.5, 3.0)]
    assert probabilities == sorted(probabilities)
    assert probabilities[0] < probabilities[-1]


def test_weightless_votes_lead_nowhere():
    assert lead_probability(vote("aab", [0.0] * 3, AnswerGroups(same))) == 0.0


def test_a_tie_goes_to_the_answer_that_came_first():
    assert vote(["b", "a", "a", "b"], [1, 1, 1, 1], AnswerGroups(same)).answer == "b"


def test_the_heavier_answer_beats_the_more_frequent_one():
    found = vote(["a", "a", "b"], [1.0, 1.0, 3.0], AnswerGroups(same))
    assert (found.answer, found.weight, found.share) == ("b", 3.0, 0.6)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_summed_is_refused(weight):
    with pytest.raises(ValueError, match="vote 1 weighs"):
        vote(["a", "a"], [1.0, weight], AnswerGroups(same))


nats = st.integers(0, 9).map(float)
statistics = st.builds(Confidence, mean=nats, tail=nats, bottom=nats, lowest=nats)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), statistics), min_size=1, max_size=25))
@pytest.mark.parametrize("voter", VOTERS)
def test_voters_equal_their_slow_definitions(voter, traces):
    statistic, keep_top = VOTERS[voter]
    pairs = [(a, 1.0 if statistic is None else getattr(c, statistic)) for a, c in traces if a is not None]
    if keep_top is not None and pairs:
        ranked = sorted(weight for _, weight in pairs)
        rank = (1 - keep_top) * (len(ranked) - 1)
        low = int(rank)
        high = min(low + 1, len(ranked) - 1)
        cut = ranked[low] + (ranked[high] - ranked[low]) * (rank - low)
        pairs = [(a, weight) for a, weight in pairs if weight >= cut - 1e-9]
    expected = {a: sum(w for b, w in pairs if b == a) for a, _ in pairs}
    found = vote_by(voter, [a for a, _ in traces], [c for _, c in traces], AnswerGroups(same))
    assert found.totals == pytest.approx(expected)


def test_offline_filtering_keeps_the_top_share_of_the_answered_traces():
    # Eleven answered traces: the 90th percentile is the tenth weight, so the two heaviest stay.
    names = ["a"] * 9 + [None] * 40 + ["b", "c"]
    weights = [*range(1, 10), *[100.0] * 40, 10.0, 11.0]
    found = filtered_vote(names, weights, 0.10, AnswerGroups(same))
    assert found.totals == {"b": 10.0, "c": 11.0}


def test_unanswered_traces_alone_give_no_answer():
    assert vote_by("top10_tail_filtered", [None], [summarise([1.0], 4)], AnswerGroups(same)).answer is None


@pytest.mark.skipif(not RECORDED.exists(), reason="recorded DeepConf traces are absent; set H1R_DATA")
def test_recorded_answers_group_by_mathematics_without_losing_a_vote():
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    merged = 0
    for problem in problems:
        given = [trace["answer"] for trace in problem["traces"]]
        strings = vote(given, [1.0] * len(given), AnswerGroups(same))
        grouped = vote(given, [1.0] * len(given), AnswerGroups(certainly_equivalent))
        assert sum(grouped.totals.values()) == sum(strings.totals.values())
        for form, total in grouped.totals.items():
            assert total >= strings.totals[form]
        merged += len(strings.totals) - len(grouped.totals)
    assert merged > 0


@pytest.mark.skipif(not RECORDED.exists(), reason="recorded DeepConf traces are absent; set H1R_DATA")
@pytest.mark.parametrize(
    ("record", "statistic", "status"),
    [
        ("min_conf", min, "completed"),
        ("max_conf", max, "completed"),
        ("avg_conf", lambda c: summarise(c, len(c)).mean, "completed"),
        ("max_conf", max, "truncated"),
        ("avg_conf", lambda c: summarise(c, len(c)).mean, "truncated"),
        ("max_conf", max, "combined"),
        ("avg_conf", lambda c: summarise(c, len(c)).mean, "combined"),
    ],
)
def test_recorded_votes_of_the_reference_implementation_recompute(record, statistic, status):
    seen = 0
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        for problem in map(json.loads, lines):
            # The reference counts completed traces first, then the truncated ones.
            order = ["completed", "truncated"] if status == "combined" else [status]
            traces = [trace for wanted in order for trace in problem["traces"] if trace["status"] == wanted]
            seen += len(problem["traces"])
            weights = [statistic(trace["conf"]) if trace["conf"] else 0.0 for trace in traces]
            found = vote([trace["answer"] for trace in traces], weights, AnswerGroups(same))
            winner, totals = problem["recorded_votes"][record][f"{status}_traces"]
            exact = record != "avg_conf" and status != "combined"  # the order of a sum moves its last digit
            assert found.totals == (totals if exact else pytest.approx(totals, rel=1e-12))
            assert found.answer == winner
    assert seen == 5568
