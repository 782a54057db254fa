"""Text in which no tokenizer finds a control token, for prompts that quote what another model wrote."""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = frozenset(["Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"])
"""Unicode's categories of characters that nobody sees, or that nothing is said about."""
_OPENS = re.compile("([<\\[\\]\uff1c\ufe64\uff3b\uff3d\u300a\u3008])(?=\\S)")
_CLOSES = re.compile("(?<=\\S)([>\uff1e\ufe65\u300b\u3009])")
"""Brackets, and what compatibility normalisation makes one."""


def clean(text: str) -> str:
    """Without unseen characters, and with a blank after each `<`, `[` and `]` and before each `>`.

    Control tokens are exact strings, and all that are in use begin or end with one of these brackets: `<|im_start|>`,
    `<start_of_turn>`, `<｜User｜>`, `[INST]`, `[|user|]`, `]~b]`, `[gMASK]`, `<<SYS>>`, `</think>`. With a blank inside
    none is left, whatever stands between, and a formula (`a<b`, `[0,1)`) means what it did.
    """
    shown = text if text.isprintable() else "".join(map(_seen, text))
    return _CLOSES.sub(r" \1", _OPENS.sub(r"\1 ", shown))


def _seen(char: str) -> str:
    return "\ufffd" if char not in "\n\t" and unicodedata.category(char) in _UNSEEN else char
