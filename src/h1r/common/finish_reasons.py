"""How an answer ended, by whichever word an API, an engine or a data set has for it."""

from __future__ import annotations

CUT_OFF = frozenset((
    "length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "model_length", "token_limit",
    "truncated",
))  # fmt: skip
"""The answer met a limit."""
BROKEN = frozenset(("error", "abort", "aborted", "cancelled", "insufficient_system_resource"))
"""The server or the engine failed at it."""
NATURAL = frozenset((
    "stop", "stopped", "eos", "eos_token", "eos_token_id", "end_of_text", "endoftext", "end_turn", "end_of_turn",
    "im_end", "stop_sequence", "stop_string", "stop_word", "tool_calls", "tool_call", "tool_use", "function_call",
    "complete", "completed", "finished", "end", "done",
))  # fmt: skip
"""It came to its own end, a tool call among these."""


def finish_reason(said: str) -> str:
    """`stop` for a natural end, `length` for one at a limit, else the word in lower case without marks around it; empty
    where nothing is said. `FinishReason.STOP` and `<|im_end|>` are read, too."""
    word = said.strip().strip("<|>").lower().rpartition(".")[2]
    return "stop" if word in NATURAL else "length" if word in CUT_OFF else word
