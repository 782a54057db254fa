"""The pieces of a stream: what is written together, and that together they are the text."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from served_model import NAME, QUESTION, Running

from h1r.data.tokenizer import train_tokenizer
from h1r.engine.endpoint.thinking import Thinking
from h1r.engine.native.batch import Drawn
from h1r.engine.protocol import SamplingParams
from h1r.serve import window
from h1r.serve.jobs import Choice, Delta, Form, Result, Telling
from h1r.serve.mailbox import Mailbox
from h1r.serve.messages import tool_calls_in
from h1r.serve.replies import ChatShape
from h1r.serve.reply_text import Splitter, TokenTexts, parts_of
from h1r.serve.responses import ResponsesShape
from h1r.serve.wanted import Body
from h1r.serve.writing import Writing

TEXTS = ["two and two are four", "naïve café", "数学は楽しい", "🙂🙃 \u200d👩\u200d🚀", "tab\tand\u0000nul\x1b[2J"]


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_bytes_of_tokens_looked_up_are_what_the_tokenizer_decodes(at_once: int) -> None:
    """Of any tokens in any order, so also where bytes make no character."""
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.add_tokens(["<a b>", "ギ"])
    draw = random.Random(at_once)
    texts = TokenTexts(tokenizer)
    for _ in range(200):
        ids = [draw.randrange(len(tokenizer)) for _ in range(40)]
        growing = texts.growing()
        told = "".join(growing.push(ids[at : at + at_once]) for at in range(0, len(ids), at_once))
        whole = tokenizer.decode(ids)
        assert whole.startswith(told)
        assert set(whole[len(told) :]) <= {"\ufffd"}
        assert [texts.one(one) for one in ids] == [tokenizer.decode([one]) for one in ids]


@pytest.mark.parametrize("looked_up", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [("<think>", ""), ("<think>a b é</think>", "\n\nfour"), ("<think></think>", ""), ("", "four"),
     ("<think>a</think>b</think>", "c")],
)  # fmt: skip
def test_tokens_of_thinking_are_counted_up_to_its_end(before: str, after: str, looked_up: bool) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    ids = [*tokenizer.encode(before), *tokenizer.encode(after)]
    texts = TokenTexts(tokenizer if looked_up else SimpleNamespace(decode=tokenizer.decode))
    assert texts.thinking(ids, before + after) == len(tokenizer.encode(before))
    counted = Thinking()  # as a front counts what a server tells of them
    for one in ids:
        counted.push(tokenizer.decode([one]).encode())
    assert counted.tokens(before + after, len(ids)) == len(tokenizer.encode(before))


def joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client has in the end, whatever the chunks."""
    found: dict[str, Any] = {}
    for chunk in chunks:
        if "type" in chunk:
            key = chunk["type"], chunk.get("output_index")
            found[str(key)] = found.get(str(key), "") + chunk["delta"] if "delta" in chunk else chunk.get("text")
        if response := chunk.get("response"):
            found["response"] = response["output"] and [one["content"][0]["text"] for one in response["output"]]
        for choice in chunk.get("choices", ()):
            for name, value in {**choice, **choice.get("delta", {})}.items():
                key = f"{choice['index']} {name}"
                if isinstance(value, str):
                    found[key] = found.get(key, "") + value
                elif isinstance(value, dict) and name == "logprobs":
                    part = "reasoning" if choice.get("delta", {}).get("reasoning_content") else ""
                    for column, values in value.items():
                        found.setdefault(f"{key} {column} {part}", []).extend(values or ())
        found["usage"] = chunk.get("usage")
    return found


def chunks_of(server: Running, path: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    with server.client.stream("POST", path, json={**asked, "stream": True}) as reply:
        text = reply.read().decode()
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(event.partition("data: ")[2]) for event in text.split("\n\n") if "data: {" in event]


ASKED: dict[str, Any] = {"model": NAME, "max_tokens": 24, "stream_options": {"include_usage": True}}
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": QUESTION, "logprobs": 0, "n": 2}),
        ("/v1/completions", {"prompt": [QUESTION, "so"], "stop": ["s", "o i"], "n": 2}),
        ("/v1/completions", {"prompt": QUESTION, "max_tokens": 1}),
        ("/v1/completions", {"prompt": QUESTION, "max_tokens": 2}),
        ("/v1/chat/completions", {"messages": MESSAGES, "logprobs": True, "n": 2}),
        ("/v1/responses", {"input": QUESTION, "max_output_tokens": 24}),
    ],
)
def test_tokens_that_are_written_together_are_the_stream_that_is_written_one_by_one(
    server: Running, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any]
) -> None:
    owner, read = server.service.served.owners()[0], Mailbox.__aiter__

    async def step_by_step(self: Mailbox) -> AsyncIterator[Any]:
        async for steps in read(self):
            for step in steps:
                yield [step]

    asked = {**ASKED, **asked, "seed": 5}
    for seconds in (3600.0, 0.0):
        monkeypatch.setattr(owner, "_window", SimpleNamespace(seconds=seconds, look=lambda computed: None))
        monkeypatch.setattr(owner, "_due", float("inf") if seconds else 0.0)
        if seconds:
            together = chunks_of(server, path, asked)
        else:
            monkeypatch.setattr(Mailbox, "__aiter__", step_by_step)
            one_by_one = chunks_of(server, path, asked)
    assert joined(together) == joined(one_by_one)
    assert len(together) <= len(one_by_one)
    if asked["max_tokens"] == 24 and "stop" not in asked:
        assert len(together) < len(one_by_one) / 2
    if path == "/v1/completions":
        whole = server.client.post(path, json=asked).json()
        for choice in whole["choices"]:
            assert joined(together).get(f"{choice['index']} text", "") == choice["text"]
            if "logprobs" in asked:
                for column, values in choice["logprobs"].items():
                    assert joined(together)[f"{choice['index']} logprobs {column} "] == (values or [])


def test_a_stream_is_the_same_text_in_whatever_pieces_its_tokens_come() -> None:
    """With tags, stop strings and tool calls in any place; a text that opens and closes its thinking once is in the
    end what the whole reply is."""
    draw = random.Random(1)
    pieces = ["<think>", "</think>", " ", "\n", "a", "b", "c", "<", "</", "ab", "<tool_call>", "{}"]
    for _ in range(3000):
        raw, opened, tools = (draw.random() < 0.2 for _ in range(3))
        opened, tools = opened and not raw, tools and not raw
        stops = tuple(draw.choice(["ab", "c<", "b ", "\n", "ca", "</t", " a"]) for _ in range(draw.randrange(3)))
        tokens: list[str] = [] if opened or draw.random() < 0.4 else ["<think>"]
        for _ in range(draw.randrange(1, 9)):
            tokens.append(draw.choice(pieces[opened:]))
            if any(stop in "".join(tokens) for stop in stops):
                break
        text = "".join(tokens)
        text = text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)]
        thinking, answer = (None, text) if raw else parts_of(text, opened)
        answer = tool_calls_in(answer)[0] if tools else answer
        told = []
        for most in (1, 3, len(tokens)):
            splitter, at = Splitter(stops, tools, opened, raw), 0
            while at < len(tokens):
                count = draw.randrange(most) + 1
                splitter.push("".join(tokens[at : at + count]))
                at += count
            told.append({**splitter.told})
            for name, more in splitter.rest(thinking, answer):
                told[-1][name] += more
        assert told[0] == told[1] == told[2], (tokens, stops)
        tags = "".join(tokens).count("<think>") + opened, "".join(tokens).count("</think>")
        if tags in ((0, 0), (1, 0), (1, 1)) and (opened or "".join(tokens).find("<think>") <= 0):
            assert told[0] == {"reasoning_content": thinking or "", "content": answer}, (tokens, stops)


def test_tokens_of_thinking_and_answer_that_are_written_together_stay_with_their_own_text() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    texts = TokenTexts(tokenizer)
    ids = tokenizer.encode("<think>two é</think>four")
    drawn = [Drawn(0, one, -0.5, 1.0) for one in ids]
    found = []
    for size in (1, len(ids)):
        telling = Telling(SimpleNamespace(texts=texts, ends=frozenset()), Form(logprobs=True), ())  # type: ignore[arg-type]
        deltas = [delta for at in range(0, len(ids), size) for delta in telling.push(0, drawn[at : at + size])]
        names = ("reasoning_content", "content")
        found.append({name: [(d.text, *d.tokens) for d in deltas if d.name == name] for name in names})
    one_by_one, together = found
    for name, parts in together.items():
        ((text, *tokens),) = parts
        assert text == "".join(part[0] for part in one_by_one[name])  # type: ignore[misc]
        assert tokens == [token for part in one_by_one[name] for token in part[1:]]
    assert b"".join(one.content for one in together["content"][0][1:]).endswith(b"four")  # type: ignore[union-attr]


def test_what_came_while_a_client_did_not_read_is_one_piece_and_an_error_comes_after_it() -> None:
    async def read() -> list[Any]:
        owner = SimpleNamespace(submit=lambda ticket: None, drop=lambda ticket: None)
        owner.tell = lambda loop, function, *arguments: function(*arguments)
        box = Mailbox(owner, [[1]], [SamplingParams()], True)  # type: ignore[arg-type]
        sink = box._tickets[0].sink
        for token in range(3):
            sink.take([Drawn(0, token, -0.5, 1.0)], [])
        sink.fail(RuntimeError("in the middle"))
        found: list[Any] = []
        try:
            async for steps in box:
                found.append([one.token_id for _, drawn, _ in steps for one in drawn])
        except RuntimeError as error:
            found.append(str(error))
        return found

    assert asyncio.run(read()) == [[0, 1, 2], "in the middle"]


def test_tokens_wait_longer_where_the_event_loop_takes_more_than_its_share_and_never_longer_than_they_may() -> None:
    now = [0.0, 0.0]

    def windows(one: window.Window, *written: float, seconds: float = 0.1) -> list[float]:
        found = []
        for more in written:
            now[:] = now[0] + seconds, now[1] + more
            computed[0] += 0.1
            one.look(computed[0])
            found.append(one.seconds)
        return found

    def clock() -> tuple[float, float]:
        return now[0], now[1]

    computed, least = [0.0], window.SHORTEST_S
    one = window.Window(read=clock)
    assert windows(one, 0.05, 0.003, 0.05) == pytest.approx([least, 1.5 * least, 3 * least])  # the first: no other
    assert windows(one, *[0.05] * 5)[-1] == window.INTERVAL_S
    assert windows(one, 0.0, seconds=60) == [window.INTERVAL_S]  # a pause
    assert windows(one, *[0.001] * 5)[-1] == least
    for longest in (0.0, 0.02, 0.07):
        assert {*windows(window.Window(longest, clock), *[0.05] * 9)} <= {min(least, longest), longest}


def test_an_event_is_one_line_for_every_client_and_holds_the_text_as_it_is() -> None:
    text = 'a\x85b\u2028c\u2029d\n"\x1e\x00é'
    writing = Writing(ChatShape("m", False))
    for _ in range(2):  # the second by the first
        events = [one for one in writing.write([Delta(0, "content", text)]).decode().splitlines() if one]
        assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["delta"]["content"] == text


@pytest.mark.parametrize("stops", [(), ("XX",)])
def test_a_thinking_that_closes_and_never_opened_is_told_once(stops: tuple[str, ...]) -> None:
    raw = "2 + 2 = 4\n</think>\n\nIt is 4 X"
    splitter = Splitter(stops)
    told = [piece for at in range(0, len(raw), 3) for piece in splitter.push(raw[at : at + 3])]
    told += splitter.rest(*parts_of(raw))
    assert "".join(text for _, text in told) == raw
    assert {name for name, _ in told} == {"content"}


def test_of_a_response_one_item_ends_before_the_next_begins() -> None:
    shape = ResponsesShape(Body(model="m"))
    deltas = [("reasoning_content", "2 + 2"), ("reasoning_content", " = 4"), ("content", "It is "), ("content", "4")]
    choice = Choice(0, "2 + 2 = 4", "It is 4", "length")
    events = [one for name, text in deltas for one in shape.chunks(Delta(0, name, text))]
    events += shape.chunks(choice)
    events += shape.chunks(Result([choice], 3, 9, 5, 1))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "output_item.done", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [event["item"]["content"][0]["text"] for event in events if event["type"] == "response.output_item.done"]
    assert done == ["2 + 2 = 4", "It is 4"]
