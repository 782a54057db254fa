"""Rollouts that take several steps."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ahead import WeightedEngine, run
from test_rl import RL, _examples, ready_for_rl, unbroken_as_one_that_died
from tiny_training import metrics_of, rl_section, train_rl_in, training_recipe

from h1r.engine.protocol import Prompt, SamplingParams
from h1r.records import Trace
from h1r.train.journal import Journal
from h1r.train.rollouts import Collected, Group, pack_groups

LONGEST = 12


class CountingEngine(WeightedEngine):
    """A trace's first token says how many it will have, the others count them. Each has a log-probability that tells
    the version of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.sampled = 0

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        assert not isinstance(params, SamplingParams)
        self.asked.append(self.version)
        traces = []
        for index, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
            for sample in range(one.n):
                seed = one.seed + sample
                self.streams.append((tuple(prompt[:2]), seed))
                had = list(prompt[2:])
                first = 1 + hashlib.sha256(f"{prompt} {seed}".encode()).digest()[0] % LONGEST
                length = had[0] if had else first
                whole = [length, *range(1, length)]
                ids = whole[len(had) : len(had) + one.max_tokens]
                self.sampled += len(ids)
                ended = "stop" if len(had) + len(ids) == length else "length"
                text = hashlib.sha256(bytes(ids)).hexdigest()
                said = [-float(1 + self.version)] * len(ids)
                traces.append(Trace(index, sample, ids, text, said, said, said, ended, seed=seed))  # type: ignore[arg-type]
        return traces


sections = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 4),
        "num_generations": st.integers(2, 4),
        "max_tokens": st.sampled_from([9, LONGEST]),
        "partial_tokens": st.integers(1, 6),
        "backfill": st.fixed_dictionaries(
            {"mode": st.sampled_from(["backfill", "reject"]), "cache_groups": st.integers(0, 4)}
        ),
        "curriculum": st.sampled_from([{}, {"choose": "pass_rate", "min_group": 2, "max_group": 5}]),
    }
)
percentages = st.lists(st.sampled_from([0, 50, 100]), min_size=1, max_size=5)
ahead = st.integers(0, 2)
SPARE = st.integers(0, 2)
"""Steps by which the limit of staleness is beyond the lookahead; 0: there is none."""


def whole(ids: list[int]) -> bool:
    return ids == [ids[0], *range(1, len(ids))]


@settings(max_examples=30, deadline=None)
@given(percents=percentages, changes=sections, lookahead=ahead, spare=SPARE, steps=st.integers(1, 9))
def test_rollouts_over_several_steps_are_whole_no_older_than_allowed_and_each_token_knows_its_weights(
    percents: list[int], changes: dict[str, Any], lookahead: int, spare: int, steps: int
) -> None:
    limit = lookahead + spare if spare else 0
    changes |= {"lookahead": lookahead, "max_staleness": limit}
    found, state, engine = run(percents, changes, None, lookahead, range(steps), steps, kind=CountingEngine)
    for step, collected in enumerate(found):
        if not limit:
            assert collected.longest <= changes["partial_tokens"]
        for group in collected.sampled:
            for trace, parts in zip(group.traces, group.segments, strict=True):
                assert whole(trace.token_ids)
                assert trace.num_tokens == min(trace.token_ids[0], changes["max_tokens"])
                versions = [version for version, tokens in parts for _ in range(tokens)]
                assert trace.sampling_logprobs == [-1.0 - version for version in versions]
                assert versions == sorted(versions)
                assert versions[0] == group.born
                assert lookahead or len({*versions}) == len(parts)  # the first batches ahead have equal weights
                if not limit:
                    assert all(tokens == changes["partial_tokens"] for _, tokens in parts[:-1])
        assert all(step - group.born <= limit for group in collected.groups if limit)
    assert sum(one.generated for one in found) + found[-1].waiting == state[0]["drawn"]
    assert isinstance(engine, CountingEngine)
    assert sum(one.tokens for one in found) == engine.sampled
    assert len(engine.streams) == len(set(engine.streams))


@settings(max_examples=15, deadline=None)
@given(percents=percentages, changes=sections, lookahead=ahead, cut=st.integers(1, 4), more=st.integers(1, 3))
def test_a_resumed_run_goes_on_with_the_rollouts_that_wait(
    percents: list[int], changes: dict[str, Any], lookahead: int, cut: int, more: int
) -> None:
    last = cut + more
    changes |= {"lookahead": lookahead}
    unbroken, _, _ = run(percents, changes, None, lookahead, range(last), last, kind=CountingEngine)
    with tempfile.TemporaryDirectory() as place:
        journal = Journal(Path(place) / "journal")
        _, state, _ = run(percents, changes, journal, lookahead, range(cut), last, kind=CountingEngine)
        journal.cut(state[0]["drawn"])
        resumed, _, engine = run(
            percents, changes, journal, lookahead, range(cut, last), last, state, kind=CountingEngine
        )
    assert resumed == unbroken[cut:]
    assert all(version >= cut for version in engine.asked), "what was sampled before is sampled again"


def test_a_limit_that_no_rollout_reaches_changes_nothing() -> None:
    def batches(**changes: Any) -> list[Collected]:
        return run([50] * 5, {"max_tokens": LONGEST, **changes}, None, 0, range(6), 6, kind=CountingEngine)[0]

    def without_parts(group: Group) -> Any:
        return pack_groups([Group(**{**vars(group), "segments": []})])[0]

    plain, limited = batches(), batches(partial_tokens=LONGEST)
    for one, other in zip(plain, limited, strict=True):
        assert [*map(without_parts, one.sampled)] == [*map(without_parts, other.sampled)]
        assert other.waiting == 0


def test_a_rollout_in_parts_reads_and_weighs_as_one_where_the_weights_stand_still(
    curated: Path, tmp_path: Path
) -> None:
    """Each part is sampled from what came before, and its log-probabilities are the trainer's."""
    changes = {"steps": 4, "partial_tokens": 5, "optimizer": {"learning_rate": 1e-12}, "batch_size": 4}
    recipe = training_recipe(rl={**RL, **changes})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    train_rl_in(run, recipe)
    lines = metrics_of(run.path / "rl")
    assert all(line["longest"] == 5 for line in lines)
    assert lines[0]["groups_waiting"] > 0
    assert lines[-1]["token_staleness"] > 0.5
    for line in lines[2:]:  # three parts of 5, 5 and 2 tokens
        assert line["groups"] > 0
        assert line["mismatch_kl"] == pytest.approx(0, abs=1e-6)
        assert line["tis_mean"] == pytest.approx(1, abs=1e-4)
    assert any(one["tokens"] == 12 for line in _examples(run) for one in line["rollouts"])


def test_a_run_that_died_with_rollouts_waiting_ends_with_the_bits_of_one_that_did_not(
    curated: Path, tmp_path: Path
) -> None:
    recipe = training_recipe(rl={**RL, "steps": 5, "partial_tokens": 5, "max_staleness": 1})
    unbroken = unbroken_as_one_that_died(curated, tmp_path, recipe)
    lines = metrics_of(unbroken.path / "rl")
    assert max(line["max_staleness"] for line in lines) == 1
    assert {line["longest"] for line in lines} == {5, 7}  # what would be too old ends in its second step


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_staleness": 2}, "max_staleness is a limit of rollouts that take several steps"),
        ({"partial_tokens": 4, "max_staleness": 2, "lookahead": 2}, "no rollout of max_staleness = 2 can wait"),
    ],
)
def test_limits_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rl_section(**changes)
