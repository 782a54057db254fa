"""Requests as an agent in a terminal makes them (Terminus 2 of harbor, by LiteLLM and its OpenAI client): a system
prompt, many turns, tool turns, a long screen, keys that only other servers know, and a context that is full."""

from __future__ import annotations

from typing import Any

from served_model import NAME, Running

from h1r.data.chat import conversation_ids
from h1r.serve.messages import messages_of
from h1r.serve.model import Model

SYSTEM = {"role": "system", "content": "You control a terminal. Reply with JSON: analysis, plan, commands."}
TOOLS = [
    {"type": "function", "function": {"name": "keystrokes", "description": "Types them.", "parameters": {
        "type": "object", "properties": {"keys": {"type": "string"}, "wait_s": {"type": "number"}}}}},
]  # fmt: skip
SCREEN = "root@box:/app# ls -la\n" + "".join(f"-rw-r--r-- 1 root root {n} file{n}.txt\n" for n in range(16))
ONLY_ELSEWHERE = {"session_id": "5b2f", "return_token_ids": True, "reasoning_effort": None, "response_format": None}


def terminal_turns(count: int) -> list[dict[str, Any]]:
    """What was typed and what the screen showed then, as texts and as calls of a tool by turns."""
    turns: list[dict[str, Any]] = [SYSTEM, {"role": "user", "content": "Count the files in /app."}]
    for number in range(count):
        if number % 2:
            call = {"name": "keystrokes", "arguments": '{"keys": "ls -la\\n", "wait_s": 1}'}
            calls = [{"id": f"call_{number}", "type": "function", "function": call}]
            turns.append({"role": "assistant", "content": None, "tool_calls": calls})
            turns.append({"role": "tool", "tool_call_id": f"call_{number}", "content": SCREEN})
        else:
            typed = '{"analysis": "", "plan": "look", "commands": [{"keystrokes": "ls -la\\n", "duration": 0.1}]}'
            turns.append({"role": "assistant", "content": typed, "reasoning_content": "So I look."})
            turns.append({"role": "user", "content": [{"type": "text", "text": f"Current screen:\n{SCREEN}"}]})
    return turns


def test_an_agents_turns_reach_the_model_whole_and_its_reply_has_what_the_agent_reads(
    server: Running, model: Model
) -> None:
    asked = {"model": NAME, "temperature": 0.7, "tools": TOOLS, "logprobs": True, "max_tokens": 24, **ONLY_ELSEWHERE}
    sizes = []
    for count in (1, 4):
        turns = terminal_turns(count)
        response = server.client.post("/v1/chat/completions", json={**asked, "messages": turns})
        assert response.status_code == 200, response.text
        found = response.json()
        sizes.append(found["usage"]["prompt_tokens"])
        assert sizes[-1] == len(conversation_ids(model.tokenizer, messages_of(turns), None, TOOLS))
        (choice,) = found["choices"]
        assert choice["finish_reason"] in ("stop", "length", "tool_calls")
        assert choice["message"]["role"] == "assistant"
        assert found["usage"]["completion_tokens"] == len(choice["logprobs"]["content"]) <= 24
    assert sizes[1] - sizes[0] > 3 * len(SCREEN) / 4  # three screens more, none of them cut


def test_a_full_context_is_refused_in_the_words_by_which_agents_shorten_it(server: Running, model: Model) -> None:
    asked = {"model": NAME, "messages": terminal_turns(1), "max_tokens": model.positions, **ONLY_ELSEWHERE}
    response = server.client.post("/v1/chat/completions", json=asked)
    assert response.status_code == 400
    error = response.json()["error"]
    # harbor and LiteLLM look for this code in the error's text, and then summarise what went before.
    assert error["code"] == "context_length_exceeded"
    assert "shorten the prompt" in error["message"]
