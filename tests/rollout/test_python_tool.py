"""The Python tool: what it reads of a turn, and what the model sees of a program."""

from __future__ import annotations

import json

import pytest

from h1r.records import Message
from h1r.rollout.python_tool import PythonTool, last_call


def call(code: str) -> Message:
    arguments = json.dumps({"name": "python", "arguments": {"code": code}})
    return Message("assistant", f"I compute.\n<tool_call>\n{arguments}\n</tool_call>")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("The answer is 4.", None),
        ('<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>', {"code": "1"}),
        ('<tool_call>{"name": "python", "arguments": {"code": "1"}}', {"code": "1"}),
        ('<tool_call>a</tool_call> <tool_call>{"name": "python", "arguments": {"code": "2"}}', {"code": "2"}),
        ("<tool_call>print(1)</tool_call>", "error: the call is no JSON object"),
        ("<tool_call>" + "[" * 100_000, "error: the call is no JSON object"),
        ('<tool_call>{"name": "shell", "arguments": {}}</tool_call>', "error: there is one function"),
        ('<tool_call>{"name": "python", "arguments": {"code": 1}}</tool_call>', "error: `python` takes one"),
    ],
)
def test_the_last_call_of_a_turn_is_read_or_its_fault_named(content: str, found: object) -> None:
    read = last_call(content)
    assert read == found or (isinstance(found, str) and str(read).startswith(found))


def test_the_model_sees_what_its_program_prints_and_nothing_of_earlier_programs() -> None:
    tool = PythonTool()
    assert tool.step(call("x = 6 * 7\nprint(x)")) == Message("tool", "42")
    reply = tool.step(call("print(x)"))
    assert isinstance(reply, Message)
    assert "NameError" in reply.content
    assert tool.step(Message("assistant", "It is 42.")) is None


def test_a_program_that_hangs_or_floods_costs_its_own_call() -> None:
    tool = PythonTool(time_limit_s=0.5, max_output_chars=100)
    hung = tool.step(call("while True: pass"))
    assert hung == Message("tool", "stopped: the program exceeded its limit on time")
    flood = tool.step(call("print('ab' * 1000)"))
    assert isinstance(flood, Message)
    assert "... 1,900 characters ..." in flood.content
    assert tool.step(call("print(1)")) == Message("tool", "1")
