r"""A response as plain text in which its options can be found: without typesetting, boxes and tags marked.

    \boxed{\text{C}}, <answer>C</answer>   BOX C END, TAG C END: the letter between two private characters
    \boxed{F = 30\ \mathrm{N}}             UNREAD: a box that names no option holds no letter
    **C**, "C", $\text{(C)}$, ＣＤ          C, C, (C), CD
    pure water, where it is option D        BOX D END inside a box, TEXT D END where a phrase states it

Linear in the text: only its first and last `WINDOW` characters are read, each pattern passes over them once.
"""

from __future__ import annotations

import re
import unicodedata

from h1r.response.extract import MAX_BOXED_CHARS, closing_brace
from h1r.verify.choice.lists import BOX, END, TAG, TEXT
from h1r.verify.choice.options import OPEN, Options

WINDOW = 20_000
"""Characters of the beginning and of the end of an answer in which options are looked for. Our choice."""
MAX_BOXES = 64
UNREAD = " \ue003 "

_PRIVATE = re.compile("[\ue000-\ue004\u200b-\u200f\u2060\ufeff\ufe0f]")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|texttt|textrm|textsf|mathrm|mathbf|mathsf|mathtt|mathit|mbox|operatorname|bf|rm|bm|"
    r"boldsymbol|underline|emph)\*?\s?\{([^{}\\]{0,200})\}"
)
_ARROW = re.compile(r"\\(?:therefore|Rightarrow|implies|rightarrow|to|Longrightarrow|longrightarrow)(?![A-Za-z])")
_BLANK = re.compile(r"\\(?:[,;:!~ \[\]()]|q?quad(?![a-z]))|\\(?=[{}])|~|&nbsp;")
_TYPE = str.maketrans(dict.fromkeys('*`"“”„«»「」『』$‘') | {"⟨": "<", "⟩": ">", "\r": "\n"})
_SINGLE_QUOTED = re.compile(r"(?<![A-Za-z])['‘’](\(?[A-Za-z]\)?[.]?)['’](?![A-Za-z])")
_EMPHASIS = re.compile(r"(?<![\w\\])_{1,2}(\(?[A-Za-z]\)?)_{1,2}(?!\w)")
_BOX = re.compile(r"\\f?box(?:ed)?\s{0,8}\{")
_TAGGED = re.compile(
    r"<(answer|final_answer|finalanswer|final|ans|choice|option|solution|result|output)>([^<>]{1,400})(?:</\1>|\Z)",
    re.I,
)
_TAGGED_IN_BRACKETS = re.compile(r"\[(answer|final_answer|solution)\]([^\[\]]{1,400})\[/\1\]", re.I)
_OTHER_TAG = re.compile(r"<\|[^<>|]{1,40}\|>|</?[A-Za-z][A-Za-z_]{0,20}>")
_STATES = re.compile(
    r"[:：=]\s|\s(?:is|are|be|es|est|ist|lautet|é|è|choose|pick|select)\s|(?:herefore|hus|ence|o),?\s|答案[是为]|"
    r"(?:答え|正解)は|\Z"
)
_ENDS = re.compile(r"[.!。]\s|[.!。]\Z|[,;，、]\s|\s(?:because|since|as|which|due)\s|\s\(|\Z")
_MAX_LINES = 24


def plain(answer: str, options: Options) -> str:
    """The text described above."""
    if len(answer) > 2 * WINDOW:
        answer = f"{answer[:WINDOW]}\n\n{answer[-WINDOW:]}"
    if not answer.isascii():
        answer = _PRIVATE.sub("", unicodedata.normalize("NFKC", answer))
    answer = _boxes(answer, options)
    for pattern in (_TAGGED, _TAGGED_IN_BRACKETS):
        answer = pattern.sub(lambda match: _tagged(match[2], options), answer)
    text = _untyped(_OTHER_TAG.sub(" ", answer))
    return _named(text, options) if options.texts else text


def _untyped(text: str) -> str:
    """Without the signs that only typeset."""
    if "\\" in text:
        text = _WRAPPER.sub(r"\1", _WRAPPER.sub(r"\1", text))
        text = _BLANK.sub(" ", _ARROW.sub(" ⇒ ", text))
    text = _SINGLE_QUOTED.sub(r"\1", _SINGLE_QUOTED.sub(r"\1", text).translate(_TYPE))
    return _EMPHASIS.sub(r"\1", text) if "_" in text else text


def _boxes(answer: str, options: Options) -> str:
    r"""With the last boxes replaced by what they name; one that does not close ends nothing and names nothing."""
    parts, end = [], 0
    openings = list(_BOX.finditer(answer))
    skipped = openings[-MAX_BOXES].start() if len(openings) > MAX_BOXES else 0
    for match in openings[-MAX_BOXES:]:
        if match.start() < max(end, skipped):
            continue  # a box in a box
        close = closing_brace(answer, match.end(), match.end() + MAX_BOXED_CHARS)
        if close < 0:
            parts.append(answer[end : match.start()] + UNREAD)
            end = match.end()
            continue
        letters = options.value(_untyped(answer[match.end() : close]), answer[match.end() : close])
        parts.append(answer[end : match.start()] + (_listed(BOX, letters) if letters else UNREAD))
        end = close + 1
    return "".join(parts) + answer[end:]


def _tagged(content: str, options: Options) -> str:
    """A tag that names options, or its content as it stands."""
    letters = options.value(_untyped(content), content)
    return f"\n{_listed(TAG, letters)}\n" if letters else f"\n{content}\n"


def _listed(mark: str, letters: str) -> str:
    """Letters as a list that `lists` reads."""
    joined = " or ".join(letters[len(OPEN) :]) if letters.startswith(OPEN) else ", ".join(letters)
    return f" {mark}{joined}{END} "


def _named(text: str, options: Options) -> str:
    """With options that are stated by their text replaced by their letters, in the first and last lines."""
    lines = text.split("\n")
    longest = max(map(len, options.texts)) + 24
    few = {*range(_MAX_LINES), *range(len(lines) - _MAX_LINES, len(lines))}
    for number in few & set(range(len(lines))):
        line = lines[number]
        if not line.strip() or len(line) > 4 * WINDOW:
            continue
        starts = [0, *(match.end() for match in _STATES.finditer(line))][-8:]
        for start in starts:
            rest = line[start : start + 2 * longest]
            ends = [match.start() for match in _ENDS.finditer(rest)][:8]
            letter = next((found for end in reversed(ends) if (found := options.named(rest[:end]))), None)
            if letter:
                end = next(end for end in reversed(ends) if options.named(rest[:end]) == letter)
                lines[number] = f"{line[:start]}{_listed(TEXT, letter)}{rest[end:]}{line[start + len(rest) :]}"
                break
    return "\n".join(lines)
