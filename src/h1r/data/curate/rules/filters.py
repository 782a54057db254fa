"""Which worked traces may teach a model, as rules on records that each give a reason (arXiv 2601.02346, section 2).

The paper keeps a trace when its reasoning and its answer are not empty, its answer is verified correct, and a
mathematical answer stands in `\\boxed{}`; its cap on length is in tokens. Two rules are ours: the cap counts
characters, since curation comes before the tokenizer, and a trace that repeats itself is dropped even when its answer
is right. Left out: the paper's exception for hard incorrect traces, its language-model judge, and its rules
for code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from h1r.common.syntax import parse
from h1r.records import Message, Problem, Reason, Sample, Verdict
from h1r.response.extract import THINK_CLOSE, THINK_OPEN, last_boxed
from h1r.response.format import is_well_formed
from h1r.response.repetition import is_degenerate
from h1r.verify.code.extract import Wanted, extract_code, language_of
from h1r.verify.registry import require

REASON_PHRASES: dict[Reason, str] = {
    "not_extracted": "no answer found",
    "not_readable": "answer not readable",
    "wrong": "wrong answer",
    "time": "time limit",
    "crash": "ended with an error",
    "unscored": "not scored",
}
"""A verdict's reason as the drop log counts it."""

EXCERPT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that left curation: `reason` is one of few phrases that can be counted, `excerpt` the particulars."""

    id: str
    step: str
    reason: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worked trace on its way to becoming training data: its problem, its conversation, its verdict."""

    problem: Problem
    sample: Sample
    verdict: Verdict

    @property
    def id(self) -> str:
        """Problem id and number of the trace among its problem's."""
        return f"{self.problem.id}#{self.sample.metadata.get('trace', 0)}"

    @property
    def answer(self) -> Message:
        return self.sample.messages[-1]


Rule = Callable[[Candidate], str | None]
"""The reason to drop a candidate, or None."""


def excerpt(text: str) -> str:
    """At most `EXCERPT_CHARS` characters of a text, cut in its middle, where a person misses it least."""
    if len(text) <= EXCERPT_CHARS:
        return text
    half = EXCERPT_CHARS // 2
    return f"{text[: half - 5]} [...] {text[-(half - 2) :]}"


def empty_rule(candidate: Candidate) -> str | None:
    """Reasoning or answer of white space only."""
    if not (candidate.answer.thinking or "").strip():
        return "empty thinking"
    return empty_answer_rule(candidate)


def empty_answer_rule(candidate: Candidate) -> str | None:
    """An answer of white space only."""
    return None if candidate.answer.content.strip() else "empty answer"


def format_rule(candidate: Candidate) -> str | None:
    """An answer that the format reward of RL would refuse, by the same function; one without thinking, and a turn
    before it, must have no tag of thinking in it."""
    for turn in candidate.sample.messages:
        if turn.role != "assistant":
            continue
        if (turn.thinking or "").strip():
            # A turn that only calls a tool, or thinks, has no text of its own.
            text = f"{THINK_OPEN}\n{turn.thinking}\n{THINK_CLOSE}\n\n{turn.content.strip() or '.'}"
            if not is_well_formed(text):
                return "not well-formed"
        elif THINK_OPEN in turn.content or THINK_CLOSE in turn.content:
            return "not well-formed"
    return None


def loss_rule(candidate: Candidate) -> str | None:
    """A conversation of which no turn carries loss."""
    turns = candidate.sample.metadata.get("loss_turns")
    return "no turn carries loss" if turns is not None and not any(turns) else None


def incorrect_rule(candidate: Candidate) -> str | None:
    """Reward below 1, by its verdict's reason: partial credit is not correct."""
    verdict = candidate.verdict
    if verdict.reward >= 1 or verdict.reason is None:
        return None
    if verdict.reason == "wrong" and "tests_total" in verdict.parts:
        return "fails its tests"
    return REASON_PHRASES[verdict.reason]


def unboxed_rule(candidate: Candidate) -> str | None:
    """An answer that should stand in `\\boxed{}` and does not."""
    name = candidate.problem.verifier
    if not name or not require(name).needs_box or last_boxed(candidate.answer.content):
        return None
    return "no \\boxed{} answer"


def incomplete_rule(candidate: Candidate) -> str | None:
    """A trace that was cut off, or whose thinking was never closed, where the source or the engine recorded it."""
    reason = candidate.sample.metadata.get("finish_reason", "stop")
    return None if reason == "stop" else "thinking not closed" if reason == "unclosed" else f"ended by {reason}"


def code_rule(candidate: Candidate) -> str | None:
    """Code that is missing, in another language than asked for, or, in Python, does not parse.

    For problems with tests, or with a language. Code of other languages is parsed by the compiler that runs its tests,
    in the sandbox, where hostile input does no harm; Python's parser refuses what it cannot read.
    """
    metadata = candidate.problem.metadata
    wanted = metadata.get("language")
    if not wanted and "tests" not in metadata:
        return None
    language = language_of(str(wanted or "python")) or str(wanted)
    entry = next((str(metadata[key]) for key in ("entry_point", "fn_name", "func_name") if metadata.get(key)), None)
    names = Wanted(names=(entry.rpartition(".")[2],)) if entry else None
    found = extract_code(candidate.answer.content, wanted=names)
    if found is None:
        return "no code"
    if (found.language or language) != language:
        return "code in another language"
    if language == "python":
        try:
            parse(found.code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "code does not parse"
    return None


def overlong_rule(max_chars: int) -> Rule:
    """The rule that drops traces of more than `max_chars` characters, reasoning and answer together."""
    return lambda candidate: "too long" if num_chars(candidate.sample) > max_chars else None


def repetition_rule(candidate: Candidate) -> str | None:
    """A trace whose thinking or answer repeats itself more than the format reward of RL allows."""
    parts = (candidate.answer.thinking or "", candidate.answer.content)
    return "repeats itself" if any(map(is_degenerate, parts)) else None


def num_chars(sample: Sample) -> int:
    """Characters of the last turn, reasoning and answer."""
    return len(sample.messages[-1].thinking or "") + len(sample.messages[-1].content)


def trace_rules(max_chars: int, needs_thinking: bool = True) -> list[tuple[str, Rule]]:
    """The rules of this file with the names of their steps, in the order they are applied."""
    emptiness = empty_rule if needs_thinking else empty_answer_rule
    return [
        ("empty", lambda one: emptiness(one) or format_rule(one) or loss_rule(one)),
        ("incorrect", incorrect_rule),
        ("unboxed", unboxed_rule),
        ("over-long", overlong_rule(max_chars)),
        ("repetition", repetition_rule),
    ]
