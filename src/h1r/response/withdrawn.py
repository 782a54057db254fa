"""Whether the words beside a marked answer take it back, ask for it, or give a bound: "not \boxed{5}", "\boxed{5}? No."

Only what touches the mark counts: the end of the sentence before it, and the beginning of what follows. What a model
doubts and confirms further on ("Wait, let me check ... it is right") withdraws nothing.
"""

from __future__ import annotations

import re

_BEFORE_CHARS = 60
_BEHIND_CHARS = 120

_FILLER = (
    r"(?:[ $*(\\\[:,]"
    r"|\b(?:be|equal|equals|to|the|a|correct|right|answer|simply|just|is|number|value|of|put|write)\b)*+"
)
_DENIES = (
    r"(?:\b(?:not|never|cannot|neither|nor|(?:other|greater|less|more|larger|smaller|bigger|fewer|rather) than|exceeds?"
    r"|at (?:least|most)|anything but|instead of|differs? from|for example,?|e\.g\.,?"
    r"|(?:wrong|incorrect|false|mistaken|naive)(?: \w++)? (?:is|was|would be))|n['’]t)(?![\w-])"
)
_BOUNDS = r"\b(?:is|are|be|was|stays|lies) (?:over|under|above|below|beyond|near|close to|almost|nearly)\b[ $*(\\\[]*+"
_BEFORE = re.compile(rf"(?:{_DENIES}{_FILLER}|{_BOUNDS})\Z", re.IGNORECASE)
_NO = r"(?:not|never|n['’]t|hardly)"
_WRONG = r"(?:wrong|incorrect|false|mistaken|invalid|impossible|a mistake|an error|too (?:big|small|large|low|high))"
_RIGHT = r"(?:the (?:\w++ )?answer|right|correct|true|it\b|what|valid|possible|enough)"
_SAID = (
    rf"(?:(?:is|was|['’]s|are|seems|must be|looks) (?:actually |clearly |also |just )?"
    rf"(?:{_WRONG}|{_NO} (?:actually |quite )?{_RIGHT})"
    rf"|(?:is|was|are|do|does|did|can|could|would)(?: ?{_NO}|not)\b (?:be )?(?:{_RIGHT}|work|hold|fit|satisfy)|fails\b"
    r"|would be\b|leads? to a contradiction\b)"
)
_BEHIND = re.compile(
    r"[ $*)\]}.\\,]*+(?:\?|(?:,? ?(?:but|and|which) )?(?:(?:this|that|it) ?)?"
    + _SAID
    + r"|\(?(?:not|wrong|incorrect)\b|[ \n!—–-]*+(?:(?:wait|no|actually|hmm+|oops|sorry|but)\b[ ,.!:…-]*+){0,3}"
    rf"(?:(?:this|that|it|the above|my answer|the answer|the box) ?)?{_SAID})",
    re.IGNORECASE,
)


_HINTED = frozenset(
    (
        *("never", "nor", "neither", "than", "exceed", "exceeds", "least", "most", "anything", "instead", "differ"),
        *("differs", "example", "example,", "e.g.", "e.g.,", "wrong", "incorrect", "false", "mistaken", "naive"),
        *("over", "under", "above", "below", "beyond", "near", "close", "almost", "nearly"),
    )
)
_HINTS_BEHIND = (
    *("not", "n't", "n’t", "never", "hardly", "wrong", "incorrect", "false", "mistake", "invalid", "impossible"),
    *("error", "too ", "fail", "would", "contradiction", "?"),
)
"""One of these stands in whatever the expressions match: looked for first, since they are seldom there."""
_CLOSING = " \t\n$*)]}.\\,"


def is_withdrawn(text: str, start: int, end: int) -> bool:
    """Whether the answer marked from `start` to `end` is denied, doubted, asked for or compared right beside it."""
    behind = text[end : end + _BEHIND_CHARS]
    if behind.strip(_CLOSING):
        lower = behind.lower()
        if any(hint in lower for hint in _HINTS_BEHIND) and _BEHIND.match(behind):
            return True
    before = text[max(0, start - _BEFORE_CHARS) : start].lower()
    is_hinted = "n't" in before or "n’t" in before or "not" in before or not _HINTED.isdisjoint(before.split())
    return is_hinted and _BEFORE.search(before) is not None
