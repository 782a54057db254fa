r"""The forms in which a last sentence gives its answer without "the answer is": she has 6 apples left; it is a Tuesday.

As `cues`, whose general words these add to, they are data. Each meets one sentence.
"""

from __future__ import annotations

import re

_END = r"\W{0,3}\Z"

EXTREME = re.compile(
    r"\b(?:min|max|least|greatest|smallest|largest|extrem|highest|lowest)\w{0,9}+ .{1,120}?"
    r"(?P<place>,? (?:and (?:it|this) (?:occurs|happens|is)|(?:attained|achieved|reached|occurring|obtained)|when|where"
    r"|at)\b)",
    re.IGNORECASE,
)
"""An extreme value, and the place it is attained at, which is not the answer: the maximum is 10 at x = 3."""
RATIO = re.compile(
    r"\b(?:ratio|odds|proportion)\b.{0,80}? (?:is|are) \$?(\d{1,9}+)\$? (?:to|is to) \$?(\d{1,9}+)\$?" + _END,
    re.IGNORECASE,
)
POINT = re.compile(
    r"\b(?:point|vertex|centre|center|vector|coordinates|pair|solution|focus|at|is)\b[^()$]{0,40}+"
    r"(\((?:[^()$=,]{1,40}+,){1,3}[^()$=,]{1,40}+\))" + _END,
    re.IGNORECASE,
)
CLOCK = re.compile(
    r"\b(?:is|at|was|by|be) (?:exactly )?(\d{1,2}+(?::\d\d)? ?[ap]\.? ?m\b\.?)" + _END,
    re.IGNORECASE,
)
SAID_TO_BE = re.compile(
    r"\A(?:(?:so|thus|hence|therefore|then|this means(?: that)?),? )?(?:the|this|that|it|our|[a-z]) "
    r"(?:[^.,;:!?\d$]{0,60}? )?(?:(?:is|are)(?: therefore| thus| always| an?| on an?)?|falls on an?) "
    r"([a-z]{3,20}+|[A-Z][a-z]{2,20}+)" + _END,
    re.IGNORECASE,
)
"""What a subject is said to be, in one word: the function is even; it falls on a Tuesday."""
YES_OR_NO = re.compile(r"\A(yes|no)\b(?=[,.])", re.IGNORECASE)
CONVERGES = re.compile(r"\b(?:series|integral|sequence|product|limit) (diverges|converges)" + _END, re.IGNORECASE)
NOTHING = re.compile(
    r"\b(?:so|thus|hence|therefore),? (?:it|there|the \w{1,20}+) (?:has|have|is|are) (no (?:real )?solutions?)" + _END,
    re.IGNORECASE,
)
LEFT_OVER = re.compile(
    r"\b(?:left(?: over)?|remaining|in total|altogether|in all|(?:to|until) (?:win|finish|reach|pay|go)\b.{0,30})"
    + _END
    + r"|\A(?:each|every) \w{1,20}+(?: \w{1,20}+)? (?:receives|gets|pays|has|earns)\b"
    r"|\A(?:so |thus )?(?:it|he|she|they) (?:costs?|weighs?|(?:takes?|needs?|requires?)(?: (?:him|her|them|us))?)"
    r"(?= [$\d])",
    re.IGNORECASE,
)
"""A sentence whose only number is what was asked for: she has 6 apples left."""
GIVEN = re.compile(
    r"\b(?:first|already|started|begins?|initially|originally|per|each day|every|suppose|if)\b", re.IGNORECASE
)
"""A sentence about the beginning, and not about the end."""
WORD_BEHIND = re.compile(r" ([A-Za-z]{1,20}+)")
