"""Pass rates as RL goes, and what is drawn and shared out by them."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rl import group_of
from test_rollouts import HashEngine, problems_of, stream_of, verify_many
from tiny_training import rl_section

from h1r.config import CurriculumSection
from h1r.records import Problem
from h1r.rollout.pipeline import RolloutPipeline
from h1r.train.batch import to_rollouts
from h1r.train.curriculum import NEVER, Curriculum, choose, looks_back, share_out, visited
from h1r.train.rollouts import GroupStream

sevenths = st.integers(1, 7).map(lambda n: n / 7)


@given(
    weights=st.lists(sevenths, min_size=1, max_size=6),
    retired=st.lists(st.integers(0, 5), unique=True),
    taken=st.sets(st.integers(0, 5)),
    draws=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.booleans()), max_size=14),
)
def test_no_problem_is_drawn_twice_while_there_are_others_and_retired_ones_only_where_they_are_looked_at(
    weights: list[float], retired: list[int], taken: set[int], draws: list[tuple[float, bool]]
) -> None:
    retired = [index for index in retired if index < len(weights)]
    taken = {index for index in taken if index < len(weights)}
    found = choose(np.array(weights), retired, taken, *([one[i] for one in draws] for i in (0, 1)))
    left = set(range(len(weights))) - taken
    for (chance, look), index in zip(draws, found, strict=True):
        left = left or set(range(len(weights)))
        assert index in left
        waiting = [one for one in retired if one in left]
        active = sorted(left - set(retired))
        if waiting and (look or not active):
            assert index == waiting[0]
        else:
            # The problem at whose share of the line from 0 to 1 the chance points.
            borders = [*itertools.accumulate(weights[one] for one in active)]
            at = chance * borders[-1]
            assert borders[active.index(index)] - weights[index] <= at + 1e-9
            assert at <= borders[active.index(index)] + 1e-9
        left.discard(index)


@given(
    weights=st.lists(sevenths, min_size=1, max_size=4),
    least=st.integers(2, 4),
    more=st.integers(0, 4),
    share=st.floats(0, 1),
)
def test_rollouts_are_shared_out_as_near_to_the_weights_as_whole_numbers_within_the_bounds_come(
    weights: list[float], least: int, more: int, share: float
) -> None:
    total = len(weights) * least + round(share * len(weights) * more)
    found = share_out(weights, total, least, least + more)

    def miss(numbers: tuple[int, ...]) -> float:
        """The sum of w (n / w - total / sum w)^2, less what is the same for all numbers of one sum."""
        return sum(n * n / w for n, w in zip(numbers, weights, strict=True))

    every = itertools.product(range(least, least + more + 1), repeat=len(weights))
    assert miss(tuple(found)) == pytest.approx(min(miss(one) for one in every if sum(one) == total))
    assert sum(found) == total
    assert all(least <= one <= least + more for one in found)
    for i, j in itertools.permutations(range(len(weights)), 2):
        assert weights[i] <= weights[j] or found[i] >= found[j]
    with pytest.raises(ValueError, match="do not sum to"):
        share_out(weights, len(weights) * (least + more) + 1, least, least + more)


@given(
    visits=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8),
    start=st.sampled_from([0.0, 0.25, 0.5]),
    decay=st.sampled_from([0.0, 0.5, 1.0]),
    limit=st.sampled_from([0.6, 0.9]),
)
def test_a_pass_rate_is_that_of_all_visits_the_older_the_less(
    visits: list[tuple[int, int]], start: float, decay: float, limit: float
) -> None:
    section = CurriculumSection(decay=decay, prior=3.0, retire_at=limit)
    state, rates = NEVER, []
    for number, (right, wrong) in enumerate(visits):
        state, rate = visited(state, right, wrong, number, start, section)
        told = [one for one in visits[: number + 1] if sum(one)]  # those without a verdict say nothing
        factors = [decay ** (len(told) - 1 - i) for i in range(len(told))]
        rights = sum(f * one[0] for f, one in zip(factors, told, strict=True))
        rollouts = sum(f * sum(one) for f, one in zip(factors, told, strict=True))
        assert rate == pytest.approx((rights + 3 * start) / (rollouts + 3))
        rates += [rate] if right + wrong else []
        assert state.last == number
        assert state.solved == len([*itertools.takewhile(lambda one: one >= limit, reversed(rates))])


def test_looks_are_as_many_as_their_share_and_evenly_spread() -> None:
    looks = [number for number in range(1000) if looks_back(number, 0.05)]
    assert len(looks) == 50
    assert {b - a for a, b in itertools.pairwise(looks)} <= {19, 20, 21}


CHOOSING: dict[str, Any] = {
    "num_generations": 8,
    "batch_size": 6,
    "backfill": {"mode": "reject"},
    "curriculum": {"choose": "pass_rate", "revisit": 0.1},
}


def test_what_is_solved_is_retired_looked_at_again_and_drawn_again_when_it_is_forgotten() -> None:
    problems = problems_of([100] * 6 + [50] * 6)
    engine = HashEngine()
    prompts = [[100, i] for i in range(12)]
    stream = GroupStream(problems, prompts, RolloutPipeline(engine, None, verify_many), rl_section(**CHOOSING), 0)

    def drawn(steps: range) -> list[str]:
        return [group.problem_id for step in steps for group in stream.collect(step).sampled]

    solved = {problem.id for problem in problems[:6]}
    drawn(range(20))
    assert stream.snapshot().metrics["curriculum/retired"] == 6
    assert stream.snapshot().metrics["curriculum/p90"] > 0.9 > stream.snapshot().metrics["curriculum/p10"]
    retired = drawn(range(20, 40))
    looks = [name for name in retired if name in solved]
    assert len(looks) == 12  # a tenth of 120 draws
    assert {looks.count(name) for name in solved} == {2}  # who was not seen for longest comes first
    problems[0].metadata["percent"] = 40
    forgotten = drawn(range(40, 80))
    assert stream.snapshot().metrics["curriculum/retired"] == 5
    assert forgotten.count("p0") > 2 * max(forgotten.count(name) for name in solved - {"p0"})


def test_problems_that_teach_are_drawn_more_often_and_the_others_still_are() -> None:
    percents = [0, 0, 50, 100] * 5
    by_epoch, _ = stream_of(percents, **{**CHOOSING, "curriculum": {}})
    by_rate, _ = stream_of(percents, **CHOOSING)
    even, chosen = ([stream.collect(step) for step in range(60)] for stream in (by_epoch, by_rate))
    assert sum(len(one.groups) for one in even) == pytest.approx(90, abs=5)
    assert sum(len(one.groups) for one in chosen) > 180
    seen = {group.problem_id for one in chosen[30:] for group in one.sampled}
    assert len(seen) == 20
    assert all(len({group.problem_id for group in one.sampled}) == 6 for one in chosen)
    assert "curriculum" not in by_epoch.snapshot().as_json()
    assert by_epoch.snapshot().metrics == {}


@pytest.mark.parametrize("choose", ["epochs", "pass_rate"])
def test_larger_groups_go_where_answers_differ_and_their_sum_is_kept(choose: str) -> None:
    changes = {"num_generations": 4, "batch_size": 5, "backfill": {"mode": "reject"}}
    shared = {"choose": choose, "min_group": 2, "max_group": 9}
    stream, engine = stream_of([0, 50, 100, 50, 0, 100], curriculum=shared, **changes)
    sizes: dict[str, list[int]] = {}
    for step in range(16):
        sampled = stream.collect(step).sampled
        assert sum(len(group.traces) for group in sampled) == 4 * len(sampled)
        if step > 5:
            for group in sampled:
                sizes.setdefault(group.problem_id, []).append(len(group.traces))
    assert all(2 <= size <= 9 for one in sizes.values() for size in one)
    teaching = [size for name in ("p1", "p3") for size in sizes[name]]
    others = [size for name in ("p0", "p2", "p4", "p5") for size in sizes.get(name, [])]
    assert sum(teaching) / len(teaching) > 1.5 * sum(others) / len(others)
    assert len(engine.streams) == len(set(engine.streams))


def test_the_rate_that_the_pool_measured_is_where_a_problem_begins() -> None:
    problems = [Problem(f"p{i}", "", "", difficulty=found) for i, found in enumerate([{"pass_rate": 0.5}, {}, {}])]
    problems[2].difficulty["pass_rate"] = 0.0
    section = rl_section(curriculum={"min_group": 2, "max_group": 8, "floor": 0.1})
    assert Curriculum(problems, section, 0).sizes([0, 1, 2]) == [5, 5, 2]


def test_each_problem_counts_alike_whatever_rollouts_it_has_unless_the_recipe_says_otherwise() -> None:
    rng = random.Random(0)
    small, large = (group_of([1], [[rng.randrange(9)]] * n, [1.0, 0.0] * (n // 2)) for n in (2, 8))
    for weigh, ratio in (("problems", 1), ("rollouts", 4)):
        section = rl_section(
            deviation="population", curriculum={"min_group": 2, "max_group": 8, "weigh": weigh}, num_generations=4
        )
        sums = [sum(abs(one.advantage) for one in to_rollouts(group, section)) for group in (small, large)]
        assert sums[1] / sums[0] == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_group": 8}, "min_group and max_group go together"),
        ({"min_group": 1, "max_group": 8}, "min_group = 1 leaves groups that have nothing to compare"),
        ({"min_group": 5, "max_group": 8}, "num_generations = 4 is not between curriculum.min_group = 5"),
        ({"floor": 0.0}, "greater than 0"),
    ],
)
def test_a_curriculum_that_cannot_work_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rl_section(curriculum=changes)
