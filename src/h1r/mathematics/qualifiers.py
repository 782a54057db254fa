r"""What says only for which unknowns a statement holds: x = 2k\pi, k \in \mathbb{Z}; 4k where k is an integer.

A qualifier stands at the end, names an unknown of the statement before it, and says of it where it lies, or that it is
any. "if x > 0" and "for even n" are conditions, and stay.
"""

from __future__ import annotations

import re

from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN

_START = re.compile(
    rf"[,;(]|{WORD_OPEN}[ ,;(]*+(?=where|with|for|and|in which|here)|\b(?:where|with|for)\b|\\forall(?![A-Za-z])"
)
_MAX_STARTS = 24
MAX_QUALIFIER_CHARS = 200
_NOISE = re.compile(rf"[{WORD_OPEN}{WORD_CLOSE}()$~]|\\[ ,;:!]|\\(?:forall|left|right)(?![A-Za-z])")
_LEADING = re.compile(r"(?:[ ,;.]|(?:where|with|for|and|here|in which|is|are)\b)*+")
_NAME = r"\\?[A-Za-z](?:_\{?\w\}?)?"
_NAMES = rf"(?P<names>{_NAME}(?: ?(?:,|, ?and|and) ?{_NAME})*+)"
_ANY = r"(?:any|some|all|every|each|an?|arbitrary|the)"
_SET = (
    r"(?P<set>\\mathbb ?\{? ?[ZNQRC] ?\}?|[ZNQRCℤℕℚ](?![A-Za-z])|\\Z|\\N)"
    r"(?: ?[_^] ?(?:\{[^{}]*+\}|[-+*\d>]))*+(?: ?\\setminus ?\\?\{ ?0 ?\\?\})?"
)
_SIGN = r"(?:positive|non-?negative|non-?zero|arbitrary|real|natural|whole|integer)"
_KIND = rf"(?P<sign>(?:{_SIGN} )*)(?P<kind>integers?|numbers?|reals?|constants?|values?)"
_STATEMENTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:{_ANY} )?(?:integers? |numbers? |real |positive |non-?negative |natural )*+{_NAMES} ?\\in ?{_SET}",
        rf"{_NAMES} (?:is|are|be|being|denotes?|represents?) ?(?:{_ANY} )?{_KIND}",
        rf"{_NAMES} (?:{_ANY} )?{_KIND}",
        rf"{_ANY} {_KIND},? {_NAMES}(?: ?(?:\\ge|>=|>) ?[0-2])?",
        rf"{_KIND},? {_NAMES}(?: ?(?:\\ge|>=|>) ?[0-2])?",
        rf"(?:{_ANY} )+{_NAMES}(?: ?\\in ?{_SET})?(?: ?(?:\\ge|>=|>) ?[0-2])?",
        rf"{_NAMES} ?= ?(?:0|1|0, ?\\pm ?1|\\pm ?1) ?, ?[^=<>]*(?:\\[lc]?dots|\.\.\.|…)",
        rf"{_NAMES} ?(?:\\ge|>=) ?[0-2]",
    )
)
_LAST_ONLY = len(_STATEMENTS) - 1
_LETTERS = re.compile(r"(?<![A-Za-z\\])(\\?[A-Za-z]+)")
_DOMAIN_LETTERS = {"integer": "Z", "number": "R", "real": "R", "constant": "R", "natural": "N", "whole": "N"}
_LEADING_QUANTIFIER = re.compile(
    rf"[{WORD_OPEN} ]*+(?:(?:for )?(?:all|every|any|each)\b(?: of)?(?: the)?(?: {_SIGN}(?=[ {WORD_CLOSE}]))*+"
    rf"(?: (?:integers?|numbers?|reals?|values?))?|(?:positive )?integers?\b)(?: of)?[ {WORD_CLOSE}]*+"
    rf"(?:\\?[a-zA-Z][ {WORD_OPEN}]++"
    rf"(?:such that|with|where|satisfying|for which|so that)[ {WORD_CLOSE}{WORD_OPEN}]*+)?"
    rf"(?=[^{WORD_OPEN}{WORD_CLOSE}]*+\Z)"
)
INTEGERS = "Z or N"
"""Where the unknowns of "all positive integers n >= 5" lie: of which kind the bound says."""
_SIMPLE_RELATION = re.compile(r"[^<>=,]*(?:<|>|\\[lg]e(?![A-Za-z])|\\ne(?![A-Za-z]))[^=,]*")


def without_qualifier(text: str) -> tuple[str, str | None]:
    r"""(statement, where its unknowns lie) of a cleaned text: ("x=2k\pi", "Z"); (text, None) where nothing says so."""
    lead = _LEADING_QUANTIFIER.match(text)
    if lead and lead.end() < len(text) and _SIMPLE_RELATION.fullmatch(text[lead.end() :]):
        is_whole = any(kind in lead[0] for kind in ("integer", "natural", "whole"))
        return text[lead.end() :], INTEGERS if is_whole else "R" if "real" in lead[0] else None
    for count, start in enumerate(_START.finditer(text)):
        if count == _MAX_STARTS:
            break
        statement = text[: start.start()].rstrip(f" ,;{WORD_OPEN}")
        if not statement.strip(f"{WORD_OPEN}{WORD_CLOSE} ") or statement.count(WORD_OPEN) != statement.count(
            WORD_CLOSE
        ):
            continue
        tail = " ".join(_NOISE.sub(" ", text[start.start() :]).split())
        said = _LEADING.match(tail)
        body = tail[said.end() :].strip(" .,;") if said else tail
        if len(body) > MAX_QUALIFIER_CHARS:
            continue
        for index, pattern in enumerate(_STATEMENTS):
            match = pattern.fullmatch(body)
            if match is None or (index == _LAST_ONLY and not tail.lstrip(" ,").startswith(("for", "where", "with"))):
                continue
            known = {letter.lstrip("\\") for run in _LETTERS.findall(statement) for letter in (run, *run)}
            names = re.findall(r"[A-Za-z]+", match["names"].replace("and", ","))
            if any(name in known for name in names):
                return statement, _domain(match)
    return text, None


def _domain(match: re.Match[str]) -> str | None:
    """Z, N, Q, R or C; None where any will do."""
    groups = match.groupdict()
    if groups.get("set"):
        letter = next((sign for sign in groups["set"] if sign in "ZNQRCℤℕℚ"), None)
        plain = {"ℤ": "Z", "ℕ": "N", "ℚ": "Q"}.get(letter or "", letter)
        return "N" if plain == "Z" and re.search(r"[_^]", match[0][match.start("set") - match.start() :]) else plain
    words = f"{groups.get('sign') or ''} {groups.get('kind') or ''}"
    if "integer" in words:
        return "N" if "positive" in words or "negative" in words else "Z"
    return next((letter for name, letter in _DOMAIN_LETTERS.items() if name in words), None)
