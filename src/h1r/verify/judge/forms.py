r"""The forms in which judges give their verdicts, and how each is read (the recipe's `judge.reply`).

    form       what the judge is asked to reply                       made for
    verdict    Verdict: correct | Verdict: incorrect                  any chat model (the default)
    brackets   [[A]] | [[B]]                                          judges trained on pairwise comparisons
    boxed      \boxed{Correct} | \boxed{Incorrect}                    reasoning models
    square     [Correct] | [Incorrect]                                xVerify (arXiv 2504.10481)
    decision   Final Decision: Yes | Final Decision: No               TIGER-Lab's general-verifier
    compass    A | B | C, or Final Judgment: \boxed{A}                CompassVerifier (arXiv 2508.03686); C is invalid
    hle        extracted_final_answer, reasoning, correct: yes | no,  Humanity's Last Exam (arXiv 2501.14249)
               confidence, as lines or as one JSON object
    conclusion ### Conclusion: Correct | ### Conclusion: Incorrect    AMO-Bench (arXiv 2510.26768)

A reply is read after its thinking. It has one verdict, in its last line, or it has none: a judge may quote the answer
that it examines, so a reply that holds two different verdicts decides nothing, and neither does one that was cut off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h1r.response.extract import split_response

_MAX_REPLY_CHARS = 100_000
_EDGE = r"[\W_]{0,20}"
_LETTER = (
    rf"(A(?={_EDGE}(?:correct\b|\Z))|B(?={_EDGE}(?:incorrect\b|\Z))|C(?={_EDGE}(?:invalid\b|\Z)))"
    rf"(?:{_EDGE}(?:correct|incorrect|invalid))?{_EDGE}"
)


@dataclass(frozen=True, slots=True)
class Form:
    """`ask` ends the judge's instructions; `read` is the verdict of a reply without its thinking, None for none."""

    ask: str
    read: Callable[[str], bool | None]


def read_reply(reply: str, form: str = "verdict") -> bool | None:
    """The verdict of a judge's reply, None when there is no single clear one."""
    said = split_response(reply[-_MAX_REPLY_CHARS:]).answer
    return FORMS[form].read(said) if said and said.strip() else None


def stated_confidence(reply: str) -> float | None:
    """The field `confidence` of a reply in the form `hle`, 0 to 1; None where it has none that is a number."""
    said = split_response(reply[-_MAX_REPLY_CHARS:]).answer or ""
    found = _json_field(said, "confidence")
    if found is None:
        found = [match[1] for match in _CONFIDENCE.finditer(said)]
    try:
        return min(max(float(found[-1].rstrip("%")), 0.0), 100.0) / 100 if found else None
    except ValueError:
        return None


def _stated(line: str, bare: str | None, anywhere: str, right: str) -> Callable[[str], bool | None]:
    """Reads replies whose last line is the verdict.

    `line`: the last line, with the word in group 1; `bare`: a whole reply of one line; `anywhere`: verdicts as they
    may be quoted before, all of which have to be the same; `right`: the word of a correct answer.
    """
    line_, anywhere_ = re.compile(line, re.IGNORECASE), re.compile(anywhere, re.IGNORECASE)
    bare_ = re.compile(bare, re.IGNORECASE) if bare else None

    def read(reply: str) -> bool | None:
        lines = [text for text in reply.splitlines() if text.strip()]
        last = line_.fullmatch(lines[-1].strip()) if len(lines[-1]) < 400 else None
        if last is None and bare_ and len(lines) == 1 and len(lines[0]) < 400:
            last = bare_.fullmatch(lines[0].strip())
        if last is None:
            return None
        words = {last[1].lower(), *(match[1].lower() for match in anywhere_.finditer(reply))}
        return words == {right} if len(words) == 1 else None

    return read


def _fields(reply: str) -> bool | None:
    """The field `correct` of a JSON object or of lines; None where it is missing, or there twice and different."""
    found = _json_field(reply, "correct")
    if found is None:
        found = [match[1].lower() for match in _FIELD.finditer(reply)]
    return found[0] == "yes" if len(set(found)) == 1 and found[0] in ("yes", "no") else None


def _json_field(reply: str, name: str) -> list[str] | None:
    """The values of a field in a reply that is one JSON object, fenced or not; None where it is none."""
    text = _FENCE.sub("", reply.strip()).strip()
    if not text.startswith("{"):
        return None
    try:
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError):
        return None
    return [_word(value) for key, value in pairs if isinstance(key, str) and key.strip().lower() == name]


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value).strip().strip(".").lower()


_FENCE = re.compile(r"\A```[a-z]{0,10}\s|\s?```\Z")
_FIELD = re.compile(r"^[ \t*_>#-]{0,8}correct[ \t*_]{0,4}:[ \t*_]{0,4}(yes|no)\b[ \t*_.]{0,8}$", re.I | re.M)
_CONFIDENCE = re.compile(r"^[ \t*_>#-]{0,8}confidence[ \t*_]{0,4}:[ \t*_]{0,4}(\d{1,3}(?:\.\d{1,9})?) ?%?", re.I | re.M)

FORMS: dict[str, Form] = {
    "verdict": Form(
        "Reply with exactly one line, `Verdict: correct` or `Verdict: incorrect`, and nothing else.",
        _stated(
            rf"{_EDGE}verdict{_EDGE}(correct|incorrect){_EDGE}",
            rf"{_EDGE}(correct|incorrect){_EDGE}",
            r"verdict[\W_]{0,20}(correct|incorrect)\b",
            "correct",
        ),
    ),
    "brackets": Form(
        "End your reply with `[[A]]` if the answer is correct, or with `[[B]]` if it is incorrect.",
        _stated(r"(?:.{0,300}\W)?\[\[([AB])\]\][\W_]{0,8}", None, r"\[\[([A-Z])\]\]", "a"),
    ),
    "boxed": Form(
        r"End your reply with `\boxed{Correct}` or `\boxed{Incorrect}`.",
        _stated(
            r"(?:.{0,300}\W)?\\boxed\{\s?(?:\\text\{)?(correct|incorrect)\}?\s?\}[\W_]{0,8}",
            None,
            r"\\boxed\{\s?(?:\\text\{)?([^{}]{1,40}?)\}?\s?\}",
            "correct",
        ),
    ),
    "square": Form(
        "Reply with `[Correct]` or `[Incorrect]`, and nothing else.",
        _stated(
            r"(?:.{0,300}\W)?\[(correct|incorrect)\][\W_]{0,8}",
            rf"{_EDGE}(correct|incorrect){_EDGE}",
            r"\[(correct|incorrect)\]",
            "correct",
        ),
    ),
    "decision": Form(
        "End your reply with a line `Final Decision: Yes` if the answer is correct, or `Final Decision: No`.",
        _stated(
            rf"{_EDGE}final decision{_EDGE}(yes|no){_EDGE}",
            None,
            r"final decision[\W_]{0,20}(yes|no)\b",
            "yes",
        ),
    ),
    "compass": Form(
        "Reply with one letter: A if the answer is correct, B if it is incorrect, C if it is invalid, that is, cut "
        "off, repeating itself, or no answer to the question.",
        _stated(
            rf"{_EDGE}(?:final )?judge?ment{_EDGE}(?:boxed)?{_EDGE}{_LETTER}",
            rf"[\s*.\"'`]{{0,6}}{_LETTER}",
            r"judge?ment[\W_]{0,20}(?:boxed)?[\W_]{0,20}([A-C])\b",
            "a",
        ),
    ),
    "hle": Form(
        "Reply in this form, each field in a line of its own:\n"
        "extracted_final_answer: the final answer as the text gives it, or None\n"
        "reasoning: why it agrees with the reference or does not, in one line\n"
        "correct: yes or no\n"
        "confidence: the confidence that the text states, or 100",
        _fields,
    ),
    "conclusion": Form(
        "End your reply with `### Conclusion: Correct` if the answer is correct, or with `### Conclusion: Incorrect`.",
        _stated(
            rf"{_EDGE}conclusion{_EDGE}(correct|incorrect){_EDGE}",
            None,
            r"conclusion[\W_]{0,20}(correct|incorrect)\b",
            "correct",
        ),
    ),
}
"""Name -> form, as `judge.reply` has it."""
