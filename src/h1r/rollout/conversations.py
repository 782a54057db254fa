"""Conversations of several turns over an engine that generates one turn at a time.

`ConversationEngine` is an engine whose traces are whole conversations: those of prompts with an environment
(`prompts.py`) go on until the environment replies nothing or a limit is reached; all others pass through as they are.

    round 1   every prompt, n traces each           a turn that ends is answered in a thread while the others decode
    round k   one prompt per conversation that goes on: all its tokens so far, and the reply

The text of a turn begins with what its prompt opened of the thinking, where a chat template does so (`open_thinking`).
The model's tokens are never tokenised again, so what the loss sees is what was sampled. A later turn's prompt begins
with the earlier one's and its answer, whose state the engine may have kept (`SamplingParams.keep_state`; vLLM finds it
in its prefix cache). A round ends with its longest turn.

Limits: `max_turns` of the model, `time_limit_s` of replies, and `max_tokens` of the request for the whole conversation;
a conversation that reaches one ends with "length".
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.config.rollout import EnvironmentSection
from h1r.data.chat import end_of_turn, open_thinking, reply_ids
from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.engine.requests import one_per_prompt
from h1r.records import FinishReason, Message, Trace
from h1r.response.extract import split_response
from h1r.rollout.environment import Environment, Reply
from h1r.rollout.open_stream import OpenStream
from h1r.rollout.prompts import ProblemPrompt
from h1r.verify.threads import DaemonThreads

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class Conversation:
    """One trace in the making. `trace` grows by a turn and a reply at a time."""

    prompt: ProblemPrompt
    params: SamplingParams
    trace: Trace
    environment: Environment
    mask: list[int] = field(default_factory=list)
    turns: int = 0
    seconds: float = 0.0
    ended: bool = False

    def request(self) -> tuple[list[int], SamplingParams]:
        """The next turn as a request of its own."""
        ids = [*self.prompt, *self.trace.token_ids]
        left = self.params.max_tokens - len(self.trace.token_ids)
        seed = turn_seed(self.params.seed + self.trace.sample_index, self.turns)
        return ids, dataclasses.replace(self.params, n=1, max_tokens=left, seed=seed, keep_state=True)

    def add_turn(self, turn: Trace) -> None:
        trace = self.trace
        self.turns += 1
        if turn.room is not None:  # the context is full with the end of this turn, and no later one has more
            trace.room = len(trace.token_ids) + turn.room
            self.params = dataclasses.replace(self.params, max_tokens=trace.room)
        self.mask += [1] * len(turn.token_ids)
        for name in ("token_ids", "logprobs", "sampling_logprobs", "confidences"):
            getattr(trace, name).extend(getattr(turn, name))
        if turn.versions is not None:
            trace.versions = [*(trace.versions or ()), *turn.versions]
        trace.text, trace.finish_reason, trace.error = turn.text, turn.finish_reason, turn.error

    def add_reply(self, token_ids: Sequence[int]) -> None:
        self.mask += [0] * len(token_ids)
        self.trace.token_ids.extend(token_ids)

    def end(self, reason: FinishReason | None = None, error: str | None = None) -> Trace:
        """The whole trace; a reason takes the place of the last turn's."""
        self.ended = True
        trace = self.trace
        trace.mask = self.mask if 0 in self.mask else None
        trace.finish_reason, trace.error = reason or trace.finish_reason, error or trace.error
        return trace


class ConversationEngine:
    """`engine`, with conversations. tokenizer: that of its model."""

    def __init__(self, engine: Engine, tokenizer: Any, section: EnvironmentSection) -> None:
        self._engine, self._tokenizer, self._section = engine, tokenizer, section
        self._threads = DaemonThreads(section.workers, "h1r-environment")
        self._stream = OpenStream(engine)
        self._owners: list[int | Conversation] = []
        """Of each prompt of that stream, whose traces they are: a prompt's, or a later turn of a conversation."""
        self._openings: list[str] = []
        """Of each prompt of that stream, what the texts of its traces begin with."""
        self._count = 0
        self._all: dict[tuple[int, int], Conversation] = {}

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """See `Engine.generate`."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """See `Engine.stream`; a trace is a whole conversation."""
        each = one_per_prompt(prompts, params)
        self._stream, self._owners, self._count, self._all = OpenStream(self._engine), [], 0, {}
        self._openings = []
        for prompt, one in zip(prompts, each, strict=True):
            self.add(prompt, one)
        while self._stream.waits:
            going_on: list[Conversation] = []
            yield from self._round(self._stream, going_on)
            for conversation in going_on:
                if not conversation.ended:
                    self._ask(conversation, *conversation.request())
        self._all = {}

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`."""
        index, self._count = self._count, self._count + 1
        if isinstance(prompt, ProblemPrompt) and prompt.environment:
            for sample in range(params.n):
                trace = Trace(index, sample, [], "", [], [], [], "stop", params.seed + sample)
                self._all[index, sample] = Conversation(prompt, params, trace, prompt.environment())
            params = dataclasses.replace(params, keep_state=True)
        self._ask(index, prompt, params)
        return index

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`; conversations that wait for a reply are returned as they stand, too."""
        traces = []
        for number, owner in enumerate(self._owners):
            if prompt_index != (owner.trace.prompt_index if isinstance(owner, Conversation) else owner):
                continue
            for turn in self._stream.cancel(number):
                turn.text = self._openings[number] + turn.text
                conversation = self._conversation(turn)
                if conversation is None:
                    turn.prompt_index = prompt_index
                    traces.append(turn)
                elif not conversation.ended:
                    conversation.add_turn(turn)
        for (index, _), conversation in self._all.items():
            if index == prompt_index and not conversation.ended:
                trace = conversation.end("cancelled")
                if trace.token_ids:
                    traces.append(trace)
        return traces

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._engine.watch(look)

    def progress(self) -> list[Running]:
        """See `Engine.progress`; traces count with the tokens of their earlier turns."""
        found = []
        for one in self._stream.progress():
            owner, conversation = self._owners[one.prompt_index], self._conversation(one)
            if conversation is not None:
                trace = conversation.trace
                one = dataclasses.replace(
                    one, prompt_index=trace.prompt_index, sample_index=trace.sample_index,
                    num_tokens=one.num_tokens + sum(conversation.mask),
                )  # fmt: skip
            elif isinstance(owner, int):
                one = dataclasses.replace(one, prompt_index=owner)
            found.append(one)
        return found

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """See `Engine.load_weights`."""
        self._engine.load_weights(weights)

    def _ask(self, owner: int | Conversation, prompt: Prompt, params: SamplingParams) -> None:
        self._owners.append(owner)
        self._openings.append("" if self._tokenizer is None else open_thinking(self._tokenizer, prompt))
        self._stream.add(prompt, params)

    def _conversation(self, turn: Trace | Running) -> Conversation | None:
        """Whose turn it is; None for a trace of a prompt without an environment."""
        owner = self._owners[turn.prompt_index]
        return owner if isinstance(owner, Conversation) else self._all.get((owner, turn.sample_index))

    def _round(self, turns: Iterable[Trace], going_on: list[Conversation]) -> Iterator[Trace]:
        """The traces that end in this round; conversations that go on are appended to `going_on`, in order."""
        waiting: list[tuple[Conversation, Future[tuple[Reply, float]]]] = []
        for turn in turns:
            turn.text = self._openings[turn.prompt_index] + turn.text
            conversation = self._conversation(turn)
            if conversation is None:
                owner = self._owners[turn.prompt_index]
                assert isinstance(owner, int)
                turn.prompt_index = owner
                yield turn
                continue
            if conversation.ended:
                continue
            conversation.add_turn(turn)
            if turn.finish_reason == "error":
                yield conversation.end()
            else:
                waiting.append((conversation, self._threads.submit(_answer, conversation)))
        for conversation, future in sorted(waiting, key=_place):
            if conversation.ended:
                continue
            trace = self._after(conversation, future)
            if trace is None:
                going_on.append(conversation)
            else:
                yield trace

    def _after(self, conversation: Conversation, future: Future[tuple[Reply, float]]) -> Trace | None:
        """The trace where a conversation ends with this reply; None when the model has another turn."""
        section, trace = self._section, conversation.trace
        try:
            reply, seconds = future.result(section.time_limit_s - conversation.seconds)
        except TimeoutError:
            return conversation.end("length")  # the environment is not asked again: it still works on its reply
        except Exception as error:  # an environment is a user's own code: its defects cost a trace, as an engine's do
            return conversation.end("error", f"the environment failed: {type(error).__name__}: {error}")
        conversation.seconds += seconds
        if reply is None:
            return _rewarded(conversation.end(), conversation.environment)
        messages = [reply] if isinstance(reply, Message) else list(reply)
        closed = bool(trace.token_ids) and trace.token_ids[-1] == end_of_turn(self._tokenizer)
        ids = reply_ids(self._tokenizer, messages, closed)
        room = conversation.params.max_tokens - len(trace.token_ids) - len(ids)
        if room < 1 or conversation.turns >= section.max_turns or conversation.seconds >= section.time_limit_s:
            return _rewarded(conversation.end("length"), conversation.environment)
        conversation.add_reply(ids)
        return None


def _rewarded(trace: Trace, environment: Environment) -> Trace:
    try:
        trace.reward = environment.reward(trace)
    except Exception as error:
        trace.finish_reason, trace.error = "error", f"the environment failed: {type(error).__name__}: {error}"
    return trace


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a trace's later turn: a function of the trace's own and the number of turns before, 48 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/turn {turn}".encode(), digest_size=6).digest(), "big")


def message_of(text: str) -> Message:
    """A turn of the model, its thinking apart."""
    response = split_response(text)
    return Message("assistant", (response.answer or "").strip(), response.thinking)


def _answer(conversation: Conversation) -> tuple[Reply, float]:
    """The reply, none to a turn that was cut off, and the seconds it took."""
    started = time.monotonic()
    trace, environment = conversation.trace, conversation.environment
    if not conversation.turns > 1:
        environment.start(conversation.prompt.problem)
    reply = environment.step(message_of(trace.text)) if trace.finish_reason == "stop" else None
    return reply, time.monotonic() - started


def _place(waiting: tuple[Conversation, Any]) -> tuple[int, int]:
    return waiting[0].trace.prompt_index, waiting[0].trace.sample_index
