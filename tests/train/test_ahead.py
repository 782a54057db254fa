"""Batches that are sampled ahead of the training, and the journal that replays them."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rl import RL, unbroken_as_one_that_died
from test_rollouts import HashEngine, _plain, percentages, problems_of, sections, verify_many
from tiny_training import metrics_of, rl_section, training_recipe

from h1r.config import RLSection, RolloutSection
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.records import Trace
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.trackers.base import NoTracker
from h1r.train.ahead import Ahead
from h1r.train.cached_arrays import Packed
from h1r.train.fleet import Fleet
from h1r.train.journal import Journal
from h1r.train.rl import train_rl
from h1r.train.rollouts import Collected, Group, GroupStream, pack_groups, unpack_groups


class WeightedEngine(HashEngine):
    """Answers depend on the weights, too; `asked` has those of each call."""

    version = -1

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def take(self, version: int) -> None:
        self.version = version

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        traces = super().generate(prompts, params)
        self.asked.append(self.version)
        for trace in traces:
            trace.text = hashlib.sha256(f"{trace.text} {self.version}".encode()).hexdigest()
        return traces


def run(
    percents: list[int], changes: dict[str, Any], journal: Journal | None, lookahead: int, steps: range, last: int,
    state: Packed | None = None, apart: bool = False, kind: type[WeightedEngine] = WeightedEngine,
) -> tuple[list[Collected], Packed, WeightedEngine]:  # fmt: skip
    """The batches of `steps` of a run of `last`, what a checkpoint behind them keeps, and the engine."""
    engine = kind()
    problems = problems_of(percents)
    pipeline = RolloutPipeline(engine, None, verify_many, section=RolloutSection(max_failed_share=0.5))
    prompts = [[100, i] for i in range(len(problems))]
    stream = GroupStream(problems, prompts, pipeline, rl_section(**changes), 0, journal=journal)
    if state is not None:
        stream.restore(*state)
    ahead = Ahead(stream, lookahead, last, steps.start, apart)
    found = []
    for step in steps:
        ahead.begin(step, partial(engine.take, step))
        collected, behind = ahead.next()
        found.append(collected)
    ahead.wait()
    return found, (json.loads(json.dumps(behind.as_json())), behind.arrays()), engine


@settings(max_examples=20, deadline=None)
@given(percents=percentages, changes=sections, lookahead=st.integers(0, 3), steps=st.integers(1, 6))
def test_a_batch_has_the_weights_of_its_lookahead_whether_or_not_it_is_sampled_meanwhile(
    percents: list[int], changes: dict[str, Any], lookahead: int, steps: int
) -> None:
    found, _, engine = run(percents, changes, None, lookahead, range(steps), steps)
    for number, collected in enumerate(found):
        assert {group.born for group in collected.sampled} <= {max(0, number - lookahead)}
        assert all(group.born <= max(0, number - lookahead) for group in collected.groups)
    meanwhile, _, other = run(percents, changes, None, lookahead, range(steps), steps, apart=True)
    assert [_plain(one) for one in meanwhile] == [_plain(one) for one in found]
    assert (other.asked, other.streams) == (engine.asked, engine.streams)
    assert engine.asked == sorted(engine.asked)


@settings(max_examples=20, deadline=None)
@given(
    percents=percentages, changes=sections, lookahead=st.integers(0, 3), cut=st.integers(1, 4), more=st.integers(1, 3)
)
def test_a_resumed_run_replays_what_was_sampled_and_goes_on_as_an_unbroken_one(
    percents: list[int], changes: dict[str, Any], lookahead: int, cut: int, more: int
) -> None:
    last = cut + more
    unbroken, _, _ = run(percents, changes, None, lookahead, range(last), last)
    with tempfile.TemporaryDirectory() as place:
        journal = Journal(Path(place) / "journal")
        _, state, _ = run(percents, changes, journal, lookahead, range(cut), last)
        journal.cut(state[0]["drawn"])
        resumed, _, engine = run(percents, changes, journal, lookahead, range(cut, last), last, state)
    assert [_plain(one) for one in resumed] == [_plain(one) for one in unbroken[cut:]]
    assert all(version >= cut for version in engine.asked), "what was sampled before is sampled again"


def test_a_torn_entry_is_none_and_entries_that_a_checkpoint_has_passed_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    groups = run([50, 50], {}, None, 0, range(1), 1)[0][0].sampled
    for first in (0, 7, 9):
        journal.write(first, 2, pack_groups(groups))
    found = journal.read(7, 2)
    assert found is not None
    assert unpack_groups(found) == groups
    assert journal.read(7, 3) is None
    path = tmp_path / "journal" / "000000000009.npz"
    path.write_bytes(path.read_bytes()[:-30])
    assert journal.read(9, 2) is None
    foreign = tmp_path / "journal" / ".DS_Store"
    foreign.touch()
    journal.cut(7)
    assert journal.read(0, 2) is None
    assert journal.read(7, 2) is not None
    journal.cut()
    assert [*(tmp_path / "journal").iterdir()] == [foreign]
    foreign.unlink()
    journal.cut()
    assert not (tmp_path / "journal").exists()


def test_lookahead_needs_the_journal() -> None:
    with pytest.raises(ValueError, match="lookahead needs journal = true"):
        RLSection(lookahead=1, journal=False)


class Saved:
    """A policy that trains in no time; the steps that it has saved."""

    positions = 200
    eos_token_ids: Sequence[int] = (7,)

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.any = threading.Event()

    def restore(self, step: int) -> dict[str, Any]:
        return {}

    def step(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        return {"skipped": 0.0, "grad_norm": 1.0}

    def count_idle(self, why: str | None) -> None:
        pass

    def save(self, step: int, state: dict[str, Any], arrays: Any, last: bool) -> int:
        self.steps.append(step)
        self.any.set()
        return step

    def publish(self, steps: int) -> None:
        raise AssertionError("it does not get there")


def test_a_step_is_saved_before_the_batches_ahead_of_it_are_there_and_though_they_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Saved()

    class Failing(HashEngine):
        def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
            if self.calls:  # the second batch
                assert policy.any.wait(20), "the checkpoint waits for what is sampled ahead"
                raise RuntimeError("a machine is lost")
            return super().generate(prompts, params)

    closed: list[Ahead] = []
    monkeypatch.setattr(Ahead, "close", lambda ahead: closed.append(ahead))
    monkeypatch.setattr(RolloutPipeline, "prompts", lambda _, problems: [[100, i] for i in range(len(problems))])
    section = rl_section(steps=3, lookahead=1, checkpoint_every=1, max_tokens=8, backfill={"mode": "reject"})
    problems = problems_of([50] * 8)
    with pytest.raises(RuntimeError, match="a machine is lost"):
        train_rl(
            policy, Fleet(Failing(), apart=True), verify_many, problems, section, NoTracker(),
            tokenizer=None, directory=tmp_path,  # type: ignore[arg-type]
        )  # fmt: skip
    assert policy.steps == [1]
    assert len(closed) == 1


def test_training_behind_its_rollouts_is_told_and_resumes_to_the_same_bits(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl={**RL, "steps": 5, "lookahead": 2})
    unbroken = unbroken_as_one_that_died(curated, tmp_path, recipe)
    lines = metrics_of(unbroken.path / "rl")
    assert [line["staleness"] for line in lines[:2]] == [0, 1]
    assert all(line["max_staleness"] >= 2 for line in lines[2:])
    assert lines[0]["mismatch_kl"] == pytest.approx(0, abs=1e-6)
    assert all(line["mismatch_kl"] > 1e-6 for line in lines[2:])
    assert not (unbroken.path / "rl" / "journal").exists()
