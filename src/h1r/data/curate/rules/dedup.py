"""Duplicate questions and repeated traces (arXiv 2601.02346, sections 2 and 3.1; the paper does not give its method).

Two questions are near duplicates when

    numbers(a) = numbers(b)  and  answer(a) = answer(b)
    and  J(S_a, S_b) >= threshold  and  J(S_a - T, S_b - T) >= content threshold

J is the Jaccard similarity |A and B| / |A or B|, S the set of word 3-grams (`SHINGLE`) of a question, T the template of
its family: the 3-grams in more than `boilerplate_share` of the family's questions. `numbers` is the multiset of
numbers, each with the operator before it. Procedural families write one sentence around other numbers or words: those
are other problems, and the conditions on numbers and template keep them; the one on answers keeps what differs by a
bracket. MinHash with locality-sensitive hashing proposes the pairs, the true similarities decide. Of several duplicates
the first in the given order stays.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet

from h1r.data.curate.rules.filters import Candidate, Dropped, excerpt
from h1r.records import Problem, normalise_text
from h1r.verify import is_generated

SHINGLE = 3
"""Tokens in a shingle. Our choice: questions are short, and one changed word touches three shingles."""
TEMPLATE_MIN = 5
"""An n-gram in fewer questions of a family is never its template: copies of one question are not many. Our choice."""
MIN_CONTENT = 8
"""Shingles that must be left beside the template; a question with fewer differs from its twins by its slots alone."""
NUM_PERM = 128

_NUMBER = re.compile(r"(?:([-+*/^<>=×÷])\s*)?(\d+(?:\.\d+)?)")
DRESS = re.compile(r"\\(?:left|right|displaystyle|limits|[,;:!\s])")
_FRACTION = re.compile(r"\\[dt]frac")
_LAYOUT = re.compile(r"(?!(?<=\d)\.(?=\d))[^\w+\-*/^=<>%|~]|_")
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/"})
_WORD = r"\d+(?:\.\d+)?|[^\W\d_]+"
_TOKEN = re.compile(_WORD + r"|[-+*/^<>=%!&|~]")


def words(text: str) -> list[str]:
    """Runs of letters, in lower case, and numbers: `2xy` and `2 xy` are both two words."""
    return re.findall(_WORD, text.lower())


def tokens(text: str) -> list[str]:
    """Words and operators; other punctuation is layout."""
    return _TOKEN.findall(text.lower())


def bare_text(question: str) -> str:
    """The letters, digits and operators of a question, dress removed: equal for two typesettings of one question."""
    text = DRESS.sub("", question.lower().translate(_SIGNS))
    return _LAYOUT.sub("", _FRACTION.sub(r"\\frac", text))


def number_signature(question: str) -> tuple[str, ...]:
    """The numbers of a question, each with the operator before it, sorted: `5 - 3 + 6` gives ('+6', '-3', '5')."""
    return tuple(sorted(operator + digits for operator, digits in _NUMBER.findall(question)))


def shingles(question: str) -> frozenset[str]:
    """The word 3-grams of a question; a shorter question is one shingle."""
    found = tokens(question)
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


def drop_exact_duplicates(problems: Iterable[Problem]) -> tuple[list[Problem], list[Dropped]]:
    """Drops problems whose normalised question came before.

    So do those whose question and answer are an earlier one's in another typesetting, unless a generator wrote them.
    """
    first: dict[str, Problem] = {}
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for problem in problems:
        keys = [normalise_text(problem.question)]
        if not is_generated(problem):  # whose layout can be their content, as in a drawing
            keys.append(f"{bare_text(problem.question)}\n{bare_text(problem.answer)}")
        twin = next((first[key] for key in keys if key in first), None)
        # A copy hands its keys on, so that the copy of a copy is one too, whichever key it shares.
        for key in keys:
            first.setdefault(key, twin or problem)
        if twin is None:
            kept.append(problem)
        else:
            reason = "same question" if twin.answer == problem.answer else "same question, answer written otherwise"
            dropped.append(_dropped(problem, twin, "exact duplicates", reason))
    return kept, dropped


def drop_near_duplicates(
    candidates: Sequence[Problem],
    threshold: float,
    boilerplate_share: float,
    held_out: Sequence[Problem] = (),
    content_threshold: float | None = None,
) -> tuple[list[Problem], list[Dropped]]:
    """Drops problems that are near duplicates of a held-out one, or of one kept before them.

    `threshold` is a Jaccard similarity in [0, 1], and `content_threshold` the one of what is no template (None: the
    same); `boilerplate_share` the share of a family's questions above which a
    shingle is its template.
    """
    problems = [*held_out, *candidates]
    signatures = [number_signature(problem.question) for problem in problems]
    shared = {signature for signature, count in Counter(signatures).items() if count > 1}
    suspects = [index for index, signature in enumerate(signatures) if signature in shared]
    templates = _templates(problems, {problems[index].family for index in suspects}, boilerplate_share)

    whole: dict[int, frozenset[str]] = {}
    content: dict[int, frozenset[str]] = {}
    for index in suspects:
        found = shingles(problems[index].question)
        rest = found - templates[problems[index].family]
        # A short question without a template is content as a whole, so the floor is for the template's sake only.
        if len(rest) >= min(MIN_CONTENT, len(found)):
            whole[index], content[index] = found, rest

    first = len(held_out)
    least = threshold if content_threshold is None else content_threshold
    twins = _twins(problems, signatures, whole, content, (threshold, least), first)
    kept = [problem for index, problem in enumerate(candidates, first) if index not in twins]
    dropped = []
    for index, twin in sorted(twins.items()):
        reason = "nearly a held-out question" if twin < first else "nearly the same question"
        dropped.append(_dropped(problems[index], problems[twin], "near duplicates", reason))
    return kept, dropped


def drop_repeated_traces(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Dropped]]:
    """Drops traces of a problem that differ from an earlier one only in white space."""
    seen: set[tuple[str, ...]] = set()
    kept: list[Candidate] = []
    dropped: list[Dropped] = []
    for candidate in candidates:
        parts = (candidate.answer.thinking or "", candidate.answer.content)
        key = (candidate.problem.id, *(" ".join(part.split()) for part in parts))
        if key in seen:
            dropped.append(Dropped(candidate.id, "repeated traces", "same trace", excerpt(candidate.answer.content)))
        else:
            seen.add(key)
            kept.append(candidate)
    return kept, dropped


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows) of the hashing: the most rows for which a pair at the threshold is proposed with probability 0.99.

    A pair of similarity s is proposed with probability 1 - (1 - s^rows)^bands.
    """
    for rows in range(NUM_PERM // 2, 1, -1):
        if 1 - (1 - threshold**rows) ** (NUM_PERM // rows) >= 0.99:
            return NUM_PERM // rows, rows
    return NUM_PERM, 1


def _templates(problems: Sequence[Problem], families: set[str], share: float) -> dict[str, frozenset[Hashable]]:
    questions: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        if problem.family in families:
            questions[problem.family].append(problem.question)
    return {family: template(map(shingles, found), share) for family, found in questions.items()}


def _twins(
    problems: Sequence[Problem],
    signatures: Sequence[tuple[str, ...]],
    whole: dict[int, frozenset[str]],
    content: dict[int, frozenset[str]],
    thresholds: tuple[float, float],
    held_out: int,
) -> dict[int, int]:
    """Which index is a near duplicate of which kept earlier one. The first `held_out` are all kept."""
    from datasketch import MinHash, MinHashLSH  # two seconds of scipy, which most processes never need

    lsh = MinHashLSH(num_perm=NUM_PERM, params=bands(thresholds[1]))
    hashes = MinHash.generator(
        ([shingle.encode() for shingle in found] for found in content.values()), num_perm=NUM_PERM, seed=1
    )
    twins: dict[int, int] = {}
    for index, hashed in zip(content, hashes, strict=True):
        if index < held_out:
            lsh.insert(index, hashed)
            continue
        for other in sorted(lsh.query(hashed)):
            if (
                signatures[index] == signatures[other]
                and bare_text(problems[index].answer) == bare_text(problems[other].answer)
                and jaccard(whole[index], whole[other]) >= thresholds[0]
                and jaccard(content[index], content[other]) >= thresholds[1]
            ):
                twins[index] = other
                break
        else:
            lsh.insert(index, hashed)
    return twins


def _dropped(problem: Problem, twin: Problem, step: str, reason: str) -> Dropped:
    return Dropped(problem.id, step, reason, excerpt(f"as {twin.id}: {problem.question}"))
