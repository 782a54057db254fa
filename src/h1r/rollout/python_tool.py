r"""A Python tool: the model writes programs, the sandbox runs them, and what they print comes back.

    <tool_call>
    {"name": "python", "arguments": {"code": "print(6 * 7)"}}
    </tool_call>                                                ->  <tool_response>\n42\n</tool_response>

Every call is a run of its own, without anything of the earlier ones. So a call that hangs, crashes or fills its memory
costs that call alone, no process waits while the model writes (which takes minutes in a large batch), and a trace that
is generated again meets the same tool. The price is that a program must define again what it needs.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from h1r.common.prose import counted
from h1r.records import Message
from h1r.rollout.environment import Environment, Reply
from h1r.sandbox import Limits, SandboxPool

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class PythonTool(Environment):
    """A turn that ends with a call of `python` is answered with the program's output; a turn without one is the last.

    time_limit_s: seconds that a program may spend. memory_mb: MiB that it may take. max_output_chars: of its output
    that the model sees, the first half and the last half where it is longer. level: isolation, as `SandboxPool` has it.
    """

    tools = (
        {
            "type": "function",
            "function": {
                "name": "python",
                "description": "Runs a Python program, by itself, and returns what it prints.",
                "parameters": {
                    "type": "object",
                    "properties": {"code": {"type": "string", "description": "The whole program."}},
                    "required": ["code"],
                },
            },
        },
    )

    def __init__(
        self, time_limit_s: float = 6.0, memory_mb: int = 512, max_output_chars: int = 2000, level: str | None = None
    ) -> None:
        self._limits = Limits(time_s=time_limit_s, memory_bytes=memory_mb << 20, output_bytes=1 << 20)
        self._max_output_chars = max_output_chars
        self._level = level

    def step(self, message: Message) -> Reply:
        call = last_call(message.content)
        if call is None:
            return None
        return Message("tool", call if isinstance(call, str) else self._run(call["code"]))

    def _run(self, code: str) -> str:
        with (
            _sandboxes(self._level).lease() as slot,
            slot.answer(self._limits),
            slot.program(code, "python", self._limits) as program,
        ):
            outcome = program.run(b"", self._limits)
        shown = self._cut(outcome.stdout.decode(errors="replace").strip())
        if outcome.ending == "failed":
            raise RuntimeError("the sandbox could not run a program")
        if outcome.ending != "finished":
            return f"{shown}\nstopped: the program exceeded its limit on {outcome.ending}".strip()
        if outcome.status != 0:
            errors = self._cut(outcome.stderr.decode(errors="replace").strip())
            return f"{shown}\n{errors}\nexit status {outcome.status}".strip()
        return shown or "(the program printed nothing)"

    def _cut(self, text: str) -> str:
        half = self._max_output_chars // 2
        if len(text) <= self._max_output_chars:
            return text
        return f"{text[:half]}\n... {counted(len(text) - 2 * half, 'character')} ...\n{text[-half:]}"


def last_call(content: str) -> dict[str, str] | str | None:
    """The arguments of the last call in a turn, None without a call, or a sentence on what is wrong with it."""
    start = content.rfind(_OPEN)
    if start < 0:
        return None
    end = content.find(_CLOSE, start)
    text = content[start + len(_OPEN) : end if end >= 0 else len(content)]
    try:
        call: Any = json.loads(text)
    except (ValueError, RecursionError):
        return 'error: the call is no JSON object {"name": ..., "arguments": {...}}'
    if not isinstance(call, dict) or call.get("name") != "python":
        return "error: there is one function, `python`"
    arguments = call.get("arguments")
    if not isinstance(arguments, dict) or not isinstance(arguments.get("code"), str):
        return "error: `python` takes one argument, `code`, a text"
    return {"code": arguments["code"]}


@lru_cache(maxsize=4)
def _sandboxes(level: str | None) -> SandboxPool:
    """Shared by all environments of this process: as many slots as are asked for at one time."""
    return SandboxPool(workers=64, level=level)
