"""Corrected checkers over those of `if-verifiable`, which are behind their upstream's fixes or miscount words.

Each is a subclass of the library's checker with another `check_following`; descriptions, arguments and registry stay
the library's. What "word" means here: a run between blanks and dashes, without the punctuation around it.

    instruction                        fault of the library's checker                            source
    ratio:sentence_words               words may repeat: "Dog. Dog. Dog."                        IFBench 34
    words:words_position               punctuation counts as words                               IFBench 22, 24, 34
    words:keywords_specific_position   punctuation counts as words                               IFBench 22, 25
    repeat:repeat_span                 a start of 0 is replaced by a random one                  IFBench 25
    count:keywords_multiple            keywords count within other words                         evalscope 1755
    count:person_names                 names count within other words                            evalscope 1755
    format:line_indent                 of two blank lines one stays, and breaks the stairs       sieval 105
    ratio:sentence_type                a text without any question passes                        sieval 105
    custom:sentence_alphabet           a quotation mark counts as the first letter               IFBench 34
    format:sub-bullets                 a text without bullets passes, and any hyphen counts      LiveBench 468
    ratio:sentence_balance             a text without any of the three kinds passes              ours
    count:conjunctions                 "And", "and," and "and" are three                         ours
    count:unique_word_count            a lone sign is a word                                     ours
    words:consonants                   a lone sign is a word                                     ours
    words:last_first                   "light," is not "light"                                   ours
    words:paragraph_last_first         "light," is not "light"                                   ours
    repeat:repeat_change               a blank more passes for a changed first word              ours

Not corrected, since upstream has not decided, or results that were published with it would change: `ratio:overlap`
counts trigrams of characters (IFBench 34 proposes words); `repeat:repeat_span` leaves the last word out, which upstream
now describes so; strictly, a `format:sub-bullets` answer with bold text fails (LiveBench 468; loosely it does not); one
line is a stair of `format:line_indent`.
"""

from __future__ import annotations

import importlib
import re
import string
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

_EDGES = string.punctuation + " “”‘’„«»…–—、。，！？；：（）「」¡¿"
_DASHES = re.compile(r"--+|[—–]")
_CLOSERS = "\"'”’»)]}*_` "
_OPENERS = "\"'“‘«([{*_` "
_CONJUNCTIONS = frozenset(["and", "but", "for", "nor", "or", "so", "yet"])
_CLUSTER = re.compile(r"[bcdfghj-np-tv-z]{2}")
_BULLET = re.compile(r"\s*\*(?!\*)\s*\S")
_SUB_BULLET = re.compile(r"\s*-\s*\S")

Check = Callable[[Any, str], bool]


def corrected(library: Mapping[str, Any]) -> dict[str, Any]:
    """The library's checkers by instruction id, with the corrected ones in their places."""
    return {
        **library,
        **{
            name: type(f"Corrected{base.__name__}", (base,), {"check_following": check})
            for name, check in CORRECTIONS.items()
            if (base := library.get(name)) is not None
        },
    }


def words(text: str) -> list[str]:
    """The words of a text, without the punctuation around them; signs alone are none."""
    stripped = (token.strip(_EDGES) for token in _DASHES.sub(" ", text).split())
    return [token for token in stripped if token]


def _sentences(text: str) -> list[str]:
    """As the library splits them, whose checkers were imported before any can be corrected."""
    split = importlib.import_module("if_verifiable.ifbench.instructions_util").split_into_sentences
    return [sentence for sentence in split(text) if sentence.strip()]


def _sentence_words(checker: Any, text: str) -> bool:
    sentences = _sentences(text)
    found = [word.casefold() for sentence in sentences for word in words(sentence)]
    return len(sentences) == 3 and len({len(s) for s in sentences}) == 1 and 0 < len(found) == len(set(found))


def _words_position(checker: Any, text: str) -> bool:
    found = [word.casefold() for word in words(text)]
    return len(found) > 1 and found[1] == found[-2] == checker._keyword.strip().casefold()


def _keyword_position(checker: Any, text: str) -> bool:
    sentences = _sentences(text)
    found = words(sentences[checker._n - 1]) if len(sentences) >= checker._n else []
    return len(found) >= checker._m and found[checker._m - 1].casefold() == checker._keyword.strip().casefold()


def _keywords_multiple(checker: Any, text: str) -> bool:
    wanted = zip(range(1, 6), (1, 2, 3, 5, 7), strict=True)
    return all(_occurrences(getattr(checker, f"_keyword{number}"), text, re.IGNORECASE) == n for number, n in wanted)


def _person_names(checker: Any, text: str) -> bool:
    listed = checker._description_pattern.partition("person names: ")[2].strip(" .").split(", ")
    return sum(_occurrences(name.strip(), text) > 0 for name in listed) >= checker._num_person_names


def _occurrences(keyword: str, text: str, flags: int = 0) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(keyword)}(?!\w)", text, flags))


def _line_indent(checker: Any, text: str) -> bool:
    indents = [len(line) - len(line.lstrip(" ")) for line in text.split("\n") if line.strip()]
    return bool(indents) and all(one < other for one, other in pairwise(indents))


def _kinds(text: str) -> tuple[int, int, int]:
    """How many sentences end in a full stop, a question mark, an exclamation mark."""
    ends = [sentence.rstrip(_CLOSERS)[-1:] for sentence in _sentences(text)]
    return ends.count("."), ends.count("?"), ends.count("!")


def _sentence_type(checker: Any, text: str) -> bool:
    stated, asked, _ = _kinds(text)
    return asked > 0 and stated == 2 * asked


def _sentence_balance(checker: Any, text: str) -> bool:
    stated, asked, exclaimed = _kinds(text)
    return stated == asked == exclaimed > 0


def _sentence_alphabet(checker: Any, text: str) -> bool:
    first = [sentence.lstrip(_OPENERS)[:1].lower() for sentence in _sentences(text)]
    return first == list(string.ascii_lowercase)


def _has_sub_bullets(text: str) -> bool:
    """At least one line with a bullet, and each followed by a line with a sub-bullet before the next one."""
    subs: list[int] = []
    for line in text.split("\n"):
        if _BULLET.match(line):
            subs.append(0)
        elif subs and _SUB_BULLET.match(line):
            subs[-1] += 1
    return bool(subs) and min(subs) > 0


def _conjunctions(checker: Any, text: str) -> bool:
    return len(_CONJUNCTIONS & {word.lower() for word in words(text)}) >= checker._num_conjunctions


def _unique_words(checker: Any, text: str) -> bool:
    return len({token.strip(_EDGES).lower() for token in text.split()} - {""}) >= checker._num_unique_words


def _consonants(checker: Any, text: str) -> bool:
    found = words(text.lower())
    return bool(found) and all(_CLUSTER.search(word) for word in found)


def _last_first(checker: Any, text: str) -> bool:
    found = [words(sentence) for sentence in _sentences(text)]
    return all(one and other and one[-1].casefold() == other[0].casefold() for one, other in pairwise(found))


def _paragraph_last_first(checker: Any, text: str) -> bool:
    found = [[word.casefold() for word in words(paragraph)] for paragraph in text.split("\n")]
    return all(not paragraph or paragraph[0] == paragraph[-1] for paragraph in found)


def _repeat_change(checker: Any, text: str) -> bool:
    given, asked = text.split(), checker._prompt_to_repeat.split()
    return bool(given) and given[1:] == asked[1:] and given[0].strip(_EDGES) != asked[0].strip(_EDGES)


CORRECTIONS: dict[str, Check] = {
    "ratio:sentence_words": _sentence_words,
    "words:words_position": _words_position,
    "words:keywords_specific_position": _keyword_position,
    "count:keywords_multiple": _keywords_multiple,
    "count:person_names": _person_names,
    "format:line_indent": _line_indent,
    "ratio:sentence_type": _sentence_type,
    "ratio:sentence_balance": _sentence_balance,
    "custom:sentence_alphabet": _sentence_alphabet,
    "count:conjunctions": _conjunctions,
    "count:unique_word_count": _unique_words,
    "words:consonants": _consonants,
    "words:last_first": _last_first,
    "words:paragraph_last_first": _paragraph_last_first,
    "repeat:repeat_change": _repeat_change,
}
"""Instruction id -> its `check_following`."""

NEEDED: dict[str, Callable[[str], bool]] = {"format:sub-bullets": _has_sub_bullets}
"""What the answer as it stands has to have, also loosely: a variant without asterisks has no bullet left to fail by."""
