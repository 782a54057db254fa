"""Duplicate questions and repeated traces (arXiv 2601.02346, sections 2 and 3.1; the paper does not give its method).

Two questions are near duplicates when

    numbers(a) = numbers(b)  and  answer(a) = answer(b)
    and  J(S_a, S_b) >= threshold  and  J(S_a - T, S_b - T) >= content threshold

J is the Jaccard similarity |A and B| / |A or B|, S the set of token 3-grams (`SHINGLE`) of a question, T the template
of its family: the 3-grams in more than `boilerplate_share` of the family's questions. `numbers` is the multiset of
numbers, each with the operator before it, and of words that compare or count (`_TELLING`). Procedural families write
one sentence around other numbers or words: those are other problems, and the conditions on numbers and template keep
them; the one on answers keeps what differs by a bracket. MinHash with locality-sensitive hashing proposes the pairs,
the true similarities decide (`joins/`). Of several duplicates the first in the order of the recipe stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from collections.abc import Set as AbstractSet

from h1r.data.curate.rules.normal_form import tokens, unified

SHINGLE = 3
"""Tokens in a shingle. Our choice: questions are short, and one changed word touches three shingles."""
TEMPLATE_MIN = 5
"""An n-gram in fewer questions of a family is never its template: copies of one question are not many. Our choice."""
MIN_CONTENT = 8
"""Shingles that must be left beside the template; a question with fewer differs from its twins by its slots alone."""
NUM_PERM = 128

_NUMBER = re.compile(r"(?:([-+*/^<>=×÷])\s*)?(\d+(?:\.\d+)?)")
_TELLING = re.compile(
    r"\b(?:least|most|more|less|fewer|greater|larger|smaller|maximum|minimum|maximal|minimal|largest|smallest|greatest"
    r"|highest|lowest|longest|shortest|first|last|odd|even|before|after|not|without|half|third|double|twice|triple|dozen"
    r"|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand"
    r"|union|intersection|increas(?:e|es|ed|ing)|decreas(?:e|es|ed|ing)|rises?|falls?|gains?|loses?|above|below"
    r"|inside|outside|every|none|never|always|even|earlier|later|left|right|clockwise|counterclockwise)\b"
    "|至少|至多|最多|最少|以上|以下|以内|超过|不足|大于|小于|增加|减少|奇数|偶数|[一二三四五六七八九十百千万半两]"
)
"""Words that make another problem of the same sentence."""
_WORDS = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")


def words(text: str) -> list[str]:
    """Runs of letters, in lower case, and numbers: `2xy` and `2 xy` are both two words."""
    return _WORDS.findall(text.lower())


def number_signature(question: str) -> tuple[str, ...]:
    """The numbers of a question, each with the operator before it, and its words of number and comparison, sorted:
    `5 - 3 + 6` gives ('+6', '-3', '5'), `at least six` gives ('least', 'six')."""
    found = _NUMBER.findall(unified(question))
    return tuple(sorted((*(operator + digits for operator, digits in found), *_TELLING.findall(question.lower()))))


def shingles(question: str) -> frozenset[str]:
    """The word 3-grams of a question; a shorter question is one shingle."""
    found = [token.lower() for token in tokens(question)]
    return frozenset(" ".join(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1)))


def template(gram_sets: Iterable[Iterable[Hashable]], share: float) -> frozenset[Hashable]:
    """The n-grams in more than `share` of one family's questions, and in at least `TEMPLATE_MIN` of them.

    `gram_sets` holds the distinct n-grams of each question. The floor keeps a small family from calling the words of
    one copied question its template.
    """
    counts: Counter[Hashable] = Counter()
    size = 0
    for grams in gram_sets:
        counts.update(grams)
        size += 1
    return frozenset(gram for gram, count in counts.items() if count > share * size and count >= TEMPLATE_MIN)


def jaccard(left: AbstractSet[str], right: AbstractSet[str]) -> float:
    """|left and right| / |left or right|; 1 for two empty sets."""
    both = len(left & right)
    either = len(left) + len(right) - both
    return both / either if either else 1.0


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows) of the hashing: the most rows for which a pair at the threshold is proposed with probability 0.99.

    A pair of similarity s is proposed with probability 1 - (1 - s^rows)^bands.
    """
    for rows in range(NUM_PERM // 2, 1, -1):
        if 1 - (1 - threshold**rows) ** (NUM_PERM // rows) >= 0.99:
            return NUM_PERM // rows, rows
    return NUM_PERM, 1
