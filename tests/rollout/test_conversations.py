"""Conversations of several turns, on an engine that plays turns back and on the native engine."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from h1r.config import EngineSection, EnvironmentSection, RLSection, RolloutSection
from h1r.data.chat import IM_END
from h1r.data.tokenizer import train_tokenizer
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.engine.requests import Rooms
from h1r.errors import UserError
from h1r.models import build
from h1r.models.falcon_h1.config import preset
from h1r.records import FinishReason, Message, Problem, Trace, Verdict
from h1r.response.extract import split_response
from h1r.response.format import is_well_formed
from h1r.rollout.environment import ENVIRONMENTS, Environment, Reply
from h1r.rollout.pipeline import RolloutPipeline
from h1r.train.batch import to_rollouts
from h1r.train.policy_update import response_hidden
from h1r.train.rollouts import Group

TOKENIZER = train_tokenizer(["count up from 3 to 5 and say done " * 4], 320)
END = TOKENIZER.convert_tokens_to_ids(IM_END)


class CountUp(Environment):
    """Says the next number until the model says "done"."""

    def __init__(self, broken_at: int = 0) -> None:
        self.number, self.broken_at = 0, broken_at

    def start(self, problem: Problem) -> list[Message]:
        self.number = int(problem.answer)
        return [Message("user", f"count up from {problem.answer}")]

    def step(self, message: Message) -> Reply:
        self.number += 1
        if self.number == self.broken_at:
            raise RuntimeError("out of numbers")
        return None if "done" in message.content else Message("user", f"say {self.number}")

    def reward(self, trace: Trace) -> float:
        return 1.0 if trace.text == "done" else 0.25


ENVIRONMENTS.add("count_up", CountUp, replace=True)
PROBLEMS = [Problem("p3", "3?", "3"), Problem("p5", "5?", "5")]
SECTION = EnvironmentSection(kind="count_up")


class TurnEngine:
    """Repeats the last number it was told; "done" at a number that is `last`. Keeps what it was asked for."""

    def __init__(self, last: int, positions: int = 10**6) -> None:
        self.last, self.positions = last, positions
        self.asked: list[tuple[list[int], SamplingParams]] = []

    def stream(self, prompts: Sequence[Prompt], params: Any) -> Iterator[Trace]:
        each, rooms = [params] * len(prompts) if isinstance(params, SamplingParams) else params, Rooms()
        for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            self.asked.append((list(prompt), one))
            one = rooms.fitted(index, prompt, one, self.positions)
            number = re.findall(r"\d+", TOKENIZER.decode(prompt))[-1]
            text = "done" if int(number) == self.last else f"<think>so</think>{number}"
            ids = [*TOKENIZER.encode(text, add_special_tokens=False), END][: one.max_tokens]
            reason: FinishReason = "stop" if ids[-1] == END else "length"
            for sample in range(one.n):
                values = [-float(i) for i in range(len(ids))]
                trace = Trace(index, sample, ids, text, values, values, values, reason, one.seed + sample)
                rooms.tell([trace])
                yield trace


def pipeline_of(engine: Any, section: EnvironmentSection = SECTION, share: float = 0.0) -> RolloutPipeline:
    rollout = RolloutSection(max_failed_share=share)
    return RolloutPipeline(engine, TOKENIZER, lambda p, t: [Verdict(0.5)] * len(t), "", rollout, section)


def test_a_conversation_is_one_trace_whose_mask_tells_the_models_tokens_from_the_replies() -> None:
    engine = TurnEngine(last=5)
    found = pipeline_of(engine).graded(PROBLEMS, SamplingParams(n=2, max_tokens=200))
    assert [(one.trace.prompt_index, one.trace.sample_index) for one in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    trace = found[0].trace
    assert trace.mask is not None
    assert len(trace.mask) == len(trace.token_ids)
    own = [token for token, mine in zip(trace.token_ids, trace.mask, strict=True) if mine]
    assert TOKENIZER.decode(own) == f"<think>so</think>3{IM_END}<think>so</think>4{IM_END}done{IM_END}"
    replies = [token for token, mine in zip(trace.token_ids, trace.mask, strict=True) if not mine]
    assert re.findall(r"say \d", TOKENIZER.decode(replies)) == ["say 4", "say 5"]
    assert trace.num_tokens == len(own) == len(trace.logprobs) == len(trace.sampling_logprobs)
    assert (trace.text, trace.finish_reason, trace.problem_id) == ("done", "stop", "p3")
    assert found[0].verdict.reward == 1.0
    assert found[2].trace.mask is None  # one turn was enough


def test_a_later_turn_is_asked_with_the_tokens_that_were_sampled_and_a_seed_of_its_own() -> None:
    engine = TurnEngine(last=5)
    (trace,) = pipeline_of(engine).stream(PROBLEMS[:1], SamplingParams(max_tokens=200, seed=7))
    prompts = [prompt for prompt, _ in engine.asked]
    for earlier, later in itertools.pairwise(prompts):
        assert later[: len(earlier)] == earlier
    assert prompts[-1] == (prompts[0] + trace.token_ids)[: len(prompts[-1])]
    assert len({params.seed for _, params in engine.asked}) == 3
    assert [params.max_tokens for _, params in engine.asked] == [
        200 - (len(prompt) - len(prompts[0])) for prompt in prompts
    ]
    assert all(params.keep_state for _, params in engine.asked)


def test_a_conversation_that_fills_the_context_ends_there_as_cut_off() -> None:
    params = SamplingParams(max_tokens=500, fit=True)
    (whole,) = pipeline_of(TurnEngine(last=9)).stream(PROBLEMS[:1], params)
    start = len(pipeline_of(TurnEngine(last=9)).prompts(PROBLEMS[:1])[0])
    for room in range(1, len(whole.token_ids), 7):
        (trace,) = pipeline_of(TurnEngine(last=9, positions=start + room)).stream(PROBLEMS[:1], params)
        assert (trace.finish_reason, trace.error, trace.room) == ("length", None, room)
        assert trace.token_ids == whole.token_ids[: len(trace.token_ids)]
        assert len(trace.token_ids) <= room


def test_a_single_turn_is_asked_as_it_always_was() -> None:
    engine = TurnEngine(last=5)
    params = SamplingParams(n=2, max_tokens=200)
    traces = list(pipeline_of(engine, EnvironmentSection()).stream(PROBLEMS, params))
    assert [params for _, params in engine.asked] == [params, params]
    assert all(trace.mask is None and trace.reward is None for trace in traces)


def test_a_problem_may_name_its_environment() -> None:
    problems = [PROBLEMS[0], Problem("p4", "4?", "4", metadata={"environment": "count_up"})]
    traces = sorted(pipeline_of(TurnEngine(last=5), EnvironmentSection()).stream(problems, SamplingParams()),
                    key=lambda trace: trace.prompt_index)  # fmt: skip
    assert [trace.mask is None for trace in traces] == [True, False]


@pytest.mark.parametrize(("limits", "max_tokens", "turns"), [({"max_turns": 2}, 500, 2), ({}, 60, None)])
def test_a_conversation_ends_at_the_limit_of_turns_or_of_tokens(
    limits: dict[str, Any], max_tokens: int, turns: int | None
) -> None:
    engine = TurnEngine(last=99)
    section = EnvironmentSection(kind="count_up", **limits)
    (one,) = pipeline_of(engine, section).graded(PROBLEMS[:1], SamplingParams(max_tokens=max_tokens))
    assert one.trace.finish_reason == "length"
    assert len(one.trace.token_ids) <= max_tokens
    assert one.verdict.reward == 0.25
    assert turns is None or len(engine.asked) == turns


def test_an_environment_that_fails_is_tried_again_and_then_an_error_of_the_trace() -> None:
    engine = TurnEngine(last=9)
    section = EnvironmentSection(kind="count_up", options={"broken_at": 5})
    found = pipeline_of(engine, section, share=0.5).graded(PROBLEMS, SamplingParams(max_tokens=500))
    assert [one.trace.finish_reason for one in found] == ["error", "stop"]
    assert found[0].trace.error == "the environment failed: RuntimeError: out of numbers"
    assert [one.scored for one in found] == [False, True]


def test_an_option_that_the_environment_does_not_take_is_refused_before_anything_is_generated() -> None:
    section = EnvironmentSection(kind="count_up", options={"broken": 5})
    with pytest.raises(UserError, match="environment `count_up` does not take"):
        pipeline_of(TurnEngine(9), section).prompts(PROBLEMS)


SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_ssm": 32,
    "mamba_d_state": 8, "vocab_size": 320,
}  # fmt: skip


class Chatty(Environment):
    """Answers everything."""

    def step(self, message: Message) -> Reply:
        return Message("user", "go on")


ENVIRONMENTS.add("chatty", Chatty, replace=True)


def test_the_native_engine_goes_on_from_its_state_with_the_traces_of_an_engine_that_begins_anew() -> None:
    model = build(preset("tiny", **SMALL), 0)
    # Ten tokens end a turn, so that random weights have several.
    ends = [END, *range(20, 29)]
    section = EnvironmentSection(kind="chatty", max_turns=4)
    params = SamplingParams(n=3, max_tokens=120, stop_token_ids=tuple(ends))
    found = []
    for reuses in (True, False):
        engine = NativeEngine(model, TOKENIZER, EngineSection(max_sequences=4))
        if not reuses:
            engine.kept.take = lambda prompt: None  # type: ignore[method-assign]
        pipeline = RolloutPipeline(engine, TOKENIZER, system_prompt="", environment=section)
        found.append(sorted(pipeline.stream(PROBLEMS, params), key=lambda t: (t.prompt_index, t.sample_index)))
        assert (engine.kept.reused_tokens > 100) == reuses
    assert [trace.token_ids for trace in found[0]] == [trace.token_ids for trace in found[1]]
    assert [trace.mask for trace in found[0]] == [trace.mask for trace in found[1]]
    assert max(sum(m == 0 for m in trace.mask or []) for trace in found[0]) > 10
    for one, other in zip(*found, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_the_loss_is_on_the_models_own_tokens_alone() -> None:
    model = build(preset("tiny", **SMALL), 0)
    trace = Trace(0, 0, [9, 10, 11, 12, 13], "", [], [-1.0, -2.0, -3.0], [], "stop", mask=[1, 1, 0, 0, 1])
    other = Trace(0, 1, [9, 14], "", [], [-4.0, -5.0], [], "stop")
    group = Group("p", [5, 6], [trace, other], [1.0, 0.0], [True, False], [None, None], 0)
    section = RLSection(optimizer={"learning_rate": 1e-3})  # type: ignore[arg-type]
    first, second = to_rollouts(group, section)
    with torch.no_grad():
        hidden, target, lengths = response_hidden(model, [first, second])
        whole = model.model(torch.tensor(first.ids), _layout(first.ids))
    assert target.tolist() == [9, 10, 13, 9, 14]
    assert lengths == [3, 2] == [first.num_valid, second.num_valid]
    torch.testing.assert_close(hidden[:3], whole[[1, 2, 5]])


def _layout(ids: list[int]) -> Any:
    from h1r.kernels.layout import Layout

    return Layout.of([len(ids)], torch.device("cpu"))


OPENS_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


class Thinking(TurnEngine):
    """As a model whose template opens the thinking: it never writes the tag itself, and is cut off or ends it."""

    def stream(self, prompts: Sequence[Prompt], params: Any) -> Iterator[Trace]:
        for trace in super().stream(prompts, params):
            trace.text = "perhaps \\boxed{3}" if trace.sample_index else "so</think>\\boxed{4}"
            yield trace


@pytest.mark.parametrize("template", [OPENS_THINKING, OPENS_THINKING.replace("<think>\n", "")])
def test_a_trace_that_ends_in_thinking_that_its_prompt_opened_has_no_answer(template: str) -> None:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = template
    pipeline = RolloutPipeline(Thinking(last=5), tokenizer, lambda p, t: [Verdict(0.5)] * len(t), "", RolloutSection())
    ended, cut = pipeline.graded(PROBLEMS[:1], SamplingParams(n=2, max_tokens=200))
    opened = template is OPENS_THINKING
    assert ended.trace.text == ("<think>\n" if opened else "") + "so</think>\\boxed{4}"
    assert is_well_formed(ended.trace.text) == opened
    assert (split_response(cut.trace.text).answer is None) == opened
