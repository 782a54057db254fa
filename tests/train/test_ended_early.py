"""RL rollouts that a loop or DeepConf's rule ends: what is graded, trained on and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_rollouts import HashEngine, problems_of, verify_many
from tiny_training import rl_section

from h1r.config import RLSection, RolloutSection
from h1r.data.tokenizer import train_tokenizer
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.models import build
from h1r.models.registry import preset
from h1r.records import Trace
from h1r.response.loops import Loop
from h1r.rollout.pipeline import RolloutPipeline
from h1r.train.batch import to_rollouts
from h1r.train.ended_early import ending_early
from h1r.train.rl_log import rollout_metrics
from h1r.train.rollouts import GroupStream, pack_groups, unpack_groups


class Ending(HashEngine):
    """Ends the samples of `ends` for a reason, and is asked with parameters that say so."""

    def __init__(self, ends: dict[int, str]) -> None:
        super().__init__()
        self.ends = ends

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        found = super().generate(prompts, params)
        for trace in found:
            trace.finish_reason = self.ends.get(trace.sample_index, "stop")  # type: ignore[assignment]
        return found


def collected(ends: dict[int, str], percents: list[int], graded: list[int] | None = None, **changes: Any) -> Any:
    section = rl_section(batch_size=8, num_generations=4, backfill={"mode": "reject"}, **changes)
    engine, problems = Ending(ends), problems_of(percents)

    def verify(problems: Any, texts: Any) -> Any:
        if graded is not None:
            graded.append(len(texts))
        return verify_many(problems, texts)

    pipeline = RolloutPipeline(engine, None, verify, section=RolloutSection())
    prompts = [[100, number] for number in range(len(problems))]
    return GroupStream(problems, prompts, pipeline, section, 0).collect(0), section, engine


def test_what_was_stopped_for_its_confidence_has_no_reward_no_gradient_and_is_counted() -> None:
    graded: list[int] = []
    early = {"confidence": 2.0, "confidence_window": 8}
    whole, section, _ = collected({}, [50] * 8)
    found, _, engine = collected({1: "confidence", 3: "confidence"}, [50] * 8, graded, end_early=early)
    assert {(one.confidence_threshold, one.confidence_window, one.loop) for one in engine.params} == {(2.0, 8, None)}
    assert graded == [16]
    for group, complete in zip(found.sampled, whole.sampled, strict=True):
        assert [trace.sample_index for trace in group.traces] == [0, 2]
        assert [index for index, _ in group.censored] == [1, 3]
        assert group.rewards == [complete.rewards[0], complete.rewards[2]]
    # Advantages are those of the group that is left, and only groups whose rest differs teach
    assert found.groups == [group for group in found.sampled if group.rewards[0] != group.rewards[1]]
    assert 0 < len(found.groups) < len(whole.groups)
    for group in found.groups:
        rollouts = to_rollouts(group, section)
        assert len(rollouts) == 2
        assert sum(one.advantage for one in rollouts) == pytest.approx(0)
    values = rollout_metrics(found, 0)
    assert values["censored"] == 0.5
    assert values["yield"] == len(found.groups) / 8
    assert found.tokens == whole.tokens
    assert "censored" not in rollout_metrics(whole, 0)
    assert unpack_groups(pack_groups(found.sampled)) == found.sampled


def test_a_group_of_which_one_rollout_is_left_teaches_nothing() -> None:
    found, _, _ = collected({0: "confidence", 1: "confidence", 2: "confidence"}, [50] * 8)
    assert (found.generated, found.dropped, found.groups) == (8, 8, [])
    none, _, _ = collected(dict.fromkeys(range(4), "confidence"), [50] * 8)
    assert rollout_metrics(none, 0)["censored"] == 1
    assert rollout_metrics(none, 0)["yield"] == 0


def test_what_is_stopped_in_its_second_step_is_counted_with_all_of_its_tokens() -> None:
    section = rl_section(
        batch_size=1, num_generations=2, max_tokens=90, partial_tokens=9, backfill={"mode": "reject"},
        end_early={"confidence": 2.0},
    )  # fmt: skip
    engine = Ending({0: "length"})  # waits for another step
    pipeline = RolloutPipeline(engine, None, verify_many, section=RolloutSection())
    stream = GroupStream(problems_of([50]), [[100, 0]], pipeline, section, 0)
    first = stream.collect(0)
    assert (first.generated, first.waiting) == (0, 1)
    engine.ends = {0: "confidence"}  # what goes on is asked for alone, and so is the one sample of the new draw
    second = stream.collect(1)
    (group,) = [one for one in second.sampled if one.born == 0]
    assert [trace.sample_index for trace in group.traces] == [1]
    ((index, tokens),) = group.censored
    assert index == 0
    new = [one for one in second.sampled if one.born == 1]
    others = sum(count for one in new for _, count in one.censored)
    graded = sum(trace.num_tokens for one in new for trace in one.traces)
    assert first.tokens + second.tokens == tokens + group.traces[0].num_tokens + others + graded


def test_a_loop_counts_as_what_was_cut_off() -> None:
    early = {"loop_repeats": 3, "loop_period": 5, "loop_shortest": 6}
    changes = {"max_tokens": 100, "overlong_buffer": 50, "overlong_penalty": 0.5, "end_early": early}
    found, section, engine = collected({1: "repetition"}, [50] * 8, **changes)
    assert {one.loop for one in engine.params} == {Loop(3, 5, 6)}
    for group in found.sampled:
        assert len(group.traces) == 4
        assert [one["overlong"] for one in group.parts] == [0, -0.5, 0, 0]
        masked = section.model_copy(update={"mask_truncated": True})
        assert (len(to_rollouts(group, section)), len(to_rollouts(group, masked))) == (4, 3)
    assert rollout_metrics(found, 0)["looped"] == 0.25
    assert rollout_metrics(found, 0)["truncated"] == 0


def test_the_engine_ends_rollouts_where_the_rules_say() -> None:
    """A model whose logits are all 0 says one token for ever where it is greedy, and doubts each as much: log 288."""
    config = preset("tiny", vocab_size=288, num_hidden_layers=1, eos_token_id=287)
    model = build(config, seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    engine = NativeEngine(model, train_tokenizer(["one two three"] * 5, 280))
    whole = SamplingParams(n=2, max_tokens=30, temperature=0)
    assert {trace.num_tokens for trace in engine.generate([[5, 6, 7]], whole)} == {30}
    for early, tokens, reason in [
        ({"loop_repeats": 3, "loop_shortest": 12}, 12, "repetition"),
        ({"confidence": 5.67, "confidence_window": 9}, 9, "confidence"),
        ({"confidence": 5.65, "confidence_window": 9}, 30, "length"),
    ]:
        ended = engine.generate([[5, 6, 7]], ending_early(whole, rl_section(end_early=early)))
        assert {(one.num_tokens, one.finish_reason) for one in ended} == {(tokens, reason)}


def test_nothing_ends_unless_asked_and_one_copy_is_no_loop() -> None:
    params = SamplingParams(n=2, max_tokens=9)
    assert ending_early(params, RLSection()) == params
    assert dataclasses.asdict(params)["loop"] is None
    with pytest.raises(ValidationError, match="2 or more copies"):
        RLSection.model_validate({"end_early": {"loop_repeats": 1}})
