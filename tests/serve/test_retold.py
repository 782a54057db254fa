"""A stream that begins anew on another server goes on where the client is: nothing twice, nothing left out."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from scripted_server import scripted
from test_urls import before

from h1r.serve.errors import ApiError
from h1r.serve.retold import Retold

Event = dict[str, Any]
ID = r"\b(rs_|msg_|resp_|call_|chat-)[abc]"
THOUGHT, ANSWER = "Let me see. It is four.", "The answer is 4."


def pieces_of(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def chat(server: str, size: int) -> list[Event]:
    """A chat's chunks: thinking, a text with log-probabilities, two calls, usage. Ids are the server's own."""
    told = [{"role": "assistant", "content": ""}, *({"reasoning_content": one} for one in pieces_of(THOUGHT, size))]
    chunks: list[Event] = [{"choices": [{"index": 0, "delta": one, "finish_reason": None}]} for one in told]
    for one in pieces_of(ANSWER, size):
        tokens = [{"token": letter, "logprob": -0.5} for letter in one]
        chunks.append({"choices": [{"index": 0, "delta": {"content": one}, "logprobs": {"content": tokens}}]})
    for number, arguments in enumerate(('{"a": 12, "b": 30}', '{"a": 7}')):
        head = {"index": number, "id": f"call_{server}{number}", "type": "function"}
        calls = [{**head, "function": {"name": "add", "arguments": ""}}]
        calls += [{"index": number, "function": {"arguments": one}} for one in pieces_of(arguments, size)]
        chunks += [{"choices": [{"index": 0, "delta": {"tool_calls": [one]}}]} for one in calls]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    return [{"id": f"chat-{server}", **one} for one in [*chunks, {"choices": [], "usage": {"prompt_tokens": 9}}]]


def response(server: str, size: int) -> list[Event]:
    """The events of `/v1/responses`, as vLLM and OpenAI write them: no mark after the last."""
    head, items = {"id": f"resp_{server}"}, [f"rs_{server}", f"msg_{server}"]
    found: list[Event] = [{"type": "response.created", "response": {**head, "output": []}}]
    for index, (item, text, kind) in enumerate(zip(items, (THOUGHT, ANSWER), ("reasoning", "output"), strict=True)):
        place = {"item_id": item, "output_index": index, "content_index": 0}
        found.append({"type": "response.output_item.added", "output_index": index, "item": {"id": item}})
        found += [{"type": f"response.{kind}_text.delta", **place, "delta": one} for one in pieces_of(text, size)]
        found.append({"type": f"response.{kind}_text.done", **place, "text": text})
        found.append({"type": "response.output_item.done", "output_index": index, "item": {"id": item, "text": text}})
    usage = {"input_tokens": 9, "output_tokens": 21}
    ended = {**head, "output": [{"id": item} for item in items], "usage": usage}
    found.append({"type": "response.completed", "response": ended})
    return [{**one, "sequence_number": number} for number, one in enumerate(found)]


def joined(events: list[Event]) -> Event:
    """What a client makes of a stream, whatever its pieces; ids with their places."""
    found: Event = {"kinds": []}

    def add(key: str, what: Any) -> None:
        found[key] = found[key] + what if key in found else what

    for event in events:
        if "type" in event:
            if isinstance(event.get("delta"), str):
                add(f"{event['type']} {event['item_id']} {event['output_index']}", event["delta"])
            else:
                numberless = {name: value for name, value in event.items() if name != "sequence_number"}
                found["kinds"].append(json.dumps(numberless, sort_keys=True))
            continue
        add(f"usage of {event['id']}", [event["usage"]] if "usage" in event else [])
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls", ()):
                for name, what in (("id", call.get("id", "")), *call["function"].items()):
                    add(f"call {call['index']} {name}", what)
            add("logprobs", [one["token"] for one in (choice.get("logprobs") or {}).get("content", ())])
            add("ends", [choice.get("finish_reason")] if choice.get("finish_reason") else [])
            for name in ("reasoning_content", "content"):
                add(name, choice["delta"].get(name, ""))
    return found


def told_once(events: list[Event]) -> str:
    """The same without the names of servers. Each thing has one id, whoever told of it first."""
    written = json.dumps(joined(events))
    things, ids = ({*re.findall(one, written)} for one in (rf"{ID}(\d?)", rf"({ID}\d?)"))
    assert len(ids) == len(things), ids
    return re.sub(ID, r"\1", written)


@pytest.mark.parametrize("stream", [chat, response])
@pytest.mark.parametrize("sizes", [(3, 3), (5, 2), (2, 7)])
def test_nothing_comes_twice_wherever_two_servers_die(stream: Any, sizes: tuple[int, int]) -> None:
    whole = stream("a", sizes[0])
    for at in range(len(whole) + (stream is chat)):  # a chat may break off between its usage and the mark
        for then in (0, at // 2, at + 2):
            retold, found = Retold(), list[Event]()
            servers = (whole[:at], stream("b", sizes[1])[:then], stream("c", sizes[0]))
            for events in copy.deepcopy(servers):
                retold.begin()
                found += [left for event in events if (left := retold.unsaid(event)) is not None]
            assert told_once(found) == told_once(whole), (at, then)
            numbers = [event["sequence_number"] for event in found if "sequence_number" in event]
            assert numbers == list(range(len(numbers)))


def test_another_call_is_an_error_and_no_mixture_of_two() -> None:
    retold = Retold()
    retold.begin()
    told = chat("a", 3)
    for chunk in told[:-3]:
        retold.unsaid(copy.deepcopy(chunk))
    retold.begin()
    other = json.loads(json.dumps(told).replace("add", "subtract"))
    with pytest.raises(ApiError, match="writes another"):
        list(map(retold.unsaid, other))


def test_a_streamed_response_of_other_servers_ends_with_its_last_event_and_goes_on_elsewhere() -> None:
    asked = {"model": "scripted", "input": "What is 2 + 2?", "stream": True}
    events = [tuple(response(name, size)) for name, size in (("a", 3), ("b", 4))]
    with scripted(events=events[0]) as one, scripted(events=events[1]) as two, before(one, two) as server:
        for dies_after in (None, 7):
            one.dies_after, found = dies_after, list[Event]()
            begun = len(one.requests) + len(two.requests)
            server.service.served._engine.servers.all[1].outstanding = 1 << 30  # type: ignore[attr-defined]
            with server.client.stream("POST", "/v1/responses", json=asked) as reply:
                found += [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
            assert told_once(found) == told_once(list(events[0]))
            assert len(one.requests) + len(two.requests) - begun == (2 if dies_after else 1)
        assert 'h1r_tokens_total{kind="completion"} 42.0' in server.client.get("/metrics").text
