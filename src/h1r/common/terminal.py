"""Text of models and files on a terminal: what would command the terminal is shown instead of obeyed.

Control sequences can move the cursor, set titles and clipboards, or hide lines; marks of direction can reorder what is
read. Both become their escapes (`\\x1b`). Line ends and tabs stay.
"""

from __future__ import annotations

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
"""C0, delete, and C1, which terminals take as escapes of one byte."""
_DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
"""Marks that reorder a line, and the separators that begin a new one."""
_SHOWN = {code: f"\\x{code:02x}" for code in _CONTROLS if chr(code) not in "\n\t"}
_SHOWN |= {code: f"\\u{code:04x}" for code in (*_DIRECTIONS, *range(0xD800, 0xE000))}
_SHOWN |= dict.fromkeys(_SHOWN.keys() & {0x0D}, "\\r")
_IN_JSON = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *_DIRECTIONS)}


def shown(text: str) -> str:
    """The text with every control character but line ends and tabs as its escape, and halves of surrogate pairs too."""
    return text.translate(_SHOWN)


def shown_json(text: str) -> str:
    """JSON text that says the same without the control characters that JSON allows in strings."""
    return text.translate(_IN_JSON)
