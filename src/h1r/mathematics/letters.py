r"""Answers to questions with several right options, which data sets of mathematics have among others.

    A, C     A and C     \text{AC}     CA     (A),(C)      the set of these two letters

A reference that is a list of letters A to H is such an answer; so is a run of them in alphabetical order ("ACD"), but
only beside a list, since two runs are a product or a segment to the reader of mathematics.
"""

from __future__ import annotations

import re

_MAX_CHARS = 80
_REFERENCE = re.compile(r"[\\({\[$A-H]")
_DRESS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|quad|,|;| )|[\s{}()\[\]$.'\"\\]")
_JOIN = re.compile(r"(?:,|;|、|，|&|and)+")
_LISTED = re.compile(r"[A-H](?:,[A-H]){1,7}")
_RUN = re.compile(r"[A-H]{2,8}")


def same_letters(reference: str, answer: str) -> bool:
    """Whether both name the same options, at least two."""
    if len(reference) > _MAX_CHARS or len(answer) > _MAX_CHARS or not _REFERENCE.match(reference):
        return False
    known, is_listed = _letters(reference)
    if not known or not (is_listed or reference.strip() == "".join(sorted(known))):
        return False
    found, is_found_listed = _letters(answer)
    return found == known and (is_listed or is_found_listed)


def _letters(text: str) -> tuple[frozenset[str], bool]:
    """(the letters, whether they stand in a list); no letters where the text is something else."""
    bare = _JOIN.sub(",", _DRESS.sub("", text))
    is_listed = _LISTED.fullmatch(bare) is not None
    letters = bare.replace(",", "") if is_listed or _RUN.fullmatch(bare) else ""
    return frozenset(letters) if len(set(letters)) == len(letters) else frozenset(), is_listed
