"""The benchmarks of a recipe: files or hub data with a verifier, a prompt, and how often each problem is asked.

    [[eval.benchmarks]]        eval/benchmarks/MODEL/NAME.json

A finished benchmark is not asked again of the same weights: `h1r eval` that was stopped goes on at the next one.

`recipes/h1r-7b-eval.toml` has the ten of the paper (arXiv 2601.02346, section 4.1) that are asked in one turn.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from h1r.common.progress import note
from h1r.common.prose import counted, listing
from h1r.config import BenchmarkSection, CaseSection, ControlsSection, EvalSection
from h1r.data.curate.io.read import Reader, files_of
from h1r.errors import UserError
from h1r.evals.kept import refusals_of
from h1r.records import Problem
from h1r.rollout.pipeline import VerifyMany
from h1r.verify import has_judge, require
from h1r.verify.controls.answers import lacks_reference, named_option
from h1r.verify.gradable import why_ungradable

NAMED = 5
"""Unusable problems that a note names; the result has them all."""
_OPTION, _ONLY, _WITHOUT, _WHEN = "option ", "only ", "without ", "when "
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(slots=True)
class Benchmark:
    """The problems of a benchmark in the order of the file, with the prompt as their question, and {id, reason, detail}
    of each row that cannot be used. `ungradable`: rows that `only_gradable` left out."""

    name: str
    problems: list[Problem]
    unusable: list[dict[str, str]] = field(default_factory=list)
    ungradable: int = 0


def load_benchmark(section: BenchmarkSection, root: str = ".") -> Benchmark:
    """Reads a benchmark. `UserError` when it has another size than `expect`, or not one usable row."""
    wanted = {
        **section.metadata,
        **{f"{_OPTION}{number}": column for number, column in enumerate(section.options)},
        **{f"{_ONLY}{column}": column for column in section.only},
        **{f"{_WITHOUT}{column}": f"{column}?" for column in section.without},
        **{f"{_WHEN}{column}": f"{column}?" for case in section.cases for column in case.when},
    }
    found = Benchmark(section.name, [])
    for number, path in enumerate(files_of(section, root)):
        reader = Reader(section.model_copy(update={"metadata": wanted}), path, number)
        for item in reader.items():
            if _is_wanted(item.problem, section):
                _take(found, item.problem, section)
            if section.limit and len(found.problems) >= section.limit:
                break
        found.unusable += [
            {"id": f"line {line.line}", "reason": "cannot be read", "detail": line.why} for line in reader.bad
        ]
        if section.limit and len(found.problems) >= section.limit:
            break
    size = len(found.problems) + len(found.unusable) + found.ungradable
    first = f" ({_named(found.unusable[:1])})" if found.unusable else ""
    if section.expect and not section.limit and size != section.expect:
        raise UserError(
            f"benchmark `{section.name}` has {counted(size, 'problem')}, and `expect` says {section.expect}; is "
            f"the file whole, "
            "and the right one?"
        )
    if not found.problems:
        raise UserError(f"benchmark `{section.name}` has no usable problem{first}; check its columns")
    if found.ungradable:
        note(
            f"benchmark {section.name}: {found.ungradable} of {size} problems are left out, since no rule can grade "
            "them (only_gradable)"
        )
    return found


def _take(found: Benchmark, problem: Problem, section: BenchmarkSection) -> None:
    if section.only_gradable and why_ungradable(problem):
        found.ungradable += 1
        return
    try:
        found.problems.append(_asked(problem, section))
    except ValueError as error:
        found.unusable.append({"id": problem.id, "reason": "cannot be asked", "detail": str(error)})


def _named(rows: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(f"{row['id']}: {row['detail']}" for row in rows[:NAMED])


def check_verifiers(benchmarks: Sequence[Benchmark], verify_many: VerifyMany) -> None:
    """Grades an answer by each verifier of each benchmark, before anything is asked; `UserError` for one that fails."""
    judged = [one.name for one in benchmarks if any(require(problem.verifier).needs_judge for problem in one.problems)]
    if judged and not has_judge():
        raise UserError(
            f"a model has to judge answers of {listing(judged)}; set judge.urls and judge.model, or leave out "
            "what needs it with --without NAME"
        )
    firsts = [
        next(problem for problem in one.problems if problem.verifier == name)
        for one in benchmarks
        for name in sorted({problem.verifier for problem in one.problems})
    ]
    verify_many(firsts, ["This is no answer."] * len(firsts))


Usable = tuple[list[Problem], list[dict[str, str]]]
"""Problems that are asked, and {id, reason, detail} of those that cannot be trusted."""


def accepted(
    found: Benchmark,
    verify_many: VerifyMany,
    section: ControlsSection,
    allow_unusable: int | Literal["any"] = 0,
    file: Path | None = None,
    depends_on: Mapping[str, Any] | None = None,
) -> Usable:
    """The problems of a benchmark that are asked, and those that cannot be trusted.

    These are rows that cannot be used, problems whose reference does not score, and, with `controls.enabled`, those
    that pay an answer which solves nothing; `controls.in_eval` says what becomes of the last two: left out, or asked
    all the same. file, depends_on: `path` and `settings` of `refusals_of`. `UserError` where more are left out than
    `allow_unusable`, where `controls.in_eval` is to stop, or where nothing is left.
    """
    problems = found.problems
    pairs = list(zip(problems, refusals_of(problems, verify_many, section, file, depends_on), strict=True))
    bad = [*found.unusable]
    bad += [{"id": one.id, "reason": why.reason, "detail": why.detail} for one, why in pairs if why]
    kept = list(problems) if section.in_eval == "report" else [one for one, why in pairs if not why]
    left_out = len(problems) - len(kept) + len(found.unusable)
    if not bad:
        return kept, []
    named = "; ".join(f"{row['id']}: {row['reason']}, {row['detail']}" for row in bad[:NAMED])
    total = len(problems) + len(found.unusable)
    are = "is" if len(bad) == 1 else "are"
    sentence = f"benchmark {found.name}: {len(bad)} of {counted(total, 'problem')} {are} unusable ({named})"
    if section.in_eval == "stop" or not kept:
        raise UserError(f"{sentence}; mend the benchmark, or set controls.in_eval to `report`")
    if allow_unusable != "any" and left_out > allow_unusable:
        raise UserError(
            f"{sentence}; mend its columns or its file, or set allow_unusable = {left_out} to leave them out"
        )
    if left_out < len(bad):
        asked = len(bad) - left_out
        note(f"{sentence}; {asked} of them {'is' if asked == 1 else 'are'} asked all the same")
    else:
        all_the_same = (
            "" if len(bad) == len(found.unusable) else "; --set controls.in_eval=report asks what can be asked"
        )
        note(f"{sentence}, and left out{all_the_same}")
    return kept, bad


def settings(section: BenchmarkSection, defaults: EvalSection) -> EvalSection:
    """How the problems of a benchmark are asked: its own numbers, else the recipe's."""
    own = {"samples": section.samples, "max_tokens": section.max_tokens}
    return defaults.model_copy(update={key: value for key, value in own.items() if value is not None})


def _is_wanted(problem: Problem, section: BenchmarkSection) -> bool:
    kept = [str(problem.metadata.pop(f"{_ONLY}{column}")) == value for column, value in section.only.items()]
    dropped = [
        str(problem.metadata.pop(f"{_WITHOUT}{column}", None)) == value for column, value in section.without.items()
    ]
    return all(kept) and not any(dropped)


def _case(problem: Problem, section: BenchmarkSection) -> CaseSection | None:
    """The first case that the row fits. What the cases asked for is taken out of the metadata."""
    found = {column: problem.metadata.pop(f"{_WHEN}{column}", None) for case in section.cases for column in case.when}
    texts = {column: "" if value is None else str(value) for column, value in found.items()}
    fitting = (case for case in section.cases if all(texts[column] == value for column, value in case.when.items()))
    return next(fitting, None)


def _asked(problem: Problem, section: BenchmarkSection) -> Problem:
    """The problem with its options in order and its prompt put together; `ValueError` when it cannot be graded.

    Where official words ask the judge, the question without the prompt stands in the metadata.
    """
    case = _case(problem, section)
    prompt = case.prompt if case and case.prompt is not None else section.prompt
    if "{question}" in prompt and not problem.question.strip():
        raise ValueError("it has no question")
    problem.verifier = case.verifier if case and case.verifier is not None else problem.verifier
    problem.metadata |= {**section.constants, **(case.constants if case else {})}
    if problem.verifier and require(problem.verifier).needs_judge and prompt != "{question}":
        problem.metadata.setdefault("question", problem.question)
    values: dict[str, Any] = {"question": problem.question}
    if section.options:
        options, answer = _options(problem, len(section.options), section.index_from)
        problem.metadata["options"] = options
        problem.answer = _option(answer, options)
        pairs = zip(string.ascii_uppercase, options, strict=False)
        values["options"] = "\n".join(f"{letter}) {text}" for letter, text in pairs)
    if problem.verifier and (lacks_reference(problem) or not (problem.answer.strip() or problem.metadata)):
        raise ValueError("it has neither an answer nor what its verifier needs instead")
    values = {**problem.metadata, **values}
    problem.question = _PLACE.sub(lambda match: str(values.get(match[1], match[0])), prompt)
    return problem


def _option(answer: str, options: Sequence[str]) -> str:
    """A letter or the text of an option as it stands, else the one letter that an answer in another form names: "(b)",
    "**C**", "Answer: D". `ValueError` where it names none, or several."""
    if answer in [*string.ascii_uppercase[: len(options)], *options]:
        return answer
    # A number in brackets may as well be an index.
    letter = None if answer.strip("()[]*. ").isdecimal() else named_option(answer, options)
    if letter is None:
        raise ValueError(f"its answer {answer[:40]!r} is none of the options")
    return letter


def _lettered(answer: str, options: Sequence[str], index_from: int | None) -> str:
    """The letter of an index; what is no index stays as it is. `ValueError` where it may be one."""
    if index_from is None:
        if answer.isdecimal() and answer not in options:
            raise ValueError(
                f"its answer {answer[:40]!r} is a number and none of the options; an index wants index_from"
            )
        return answer
    if not answer.isdecimal() or not 0 <= int(answer) - index_from < len(options):
        raise ValueError(f"its answer {answer[:40]!r} is no index of {len(options)} options from {index_from}")
    return string.ascii_uppercase[int(answer) - index_from]


def _options(problem: Problem, columns: int, index_from: int | None) -> tuple[list[str], str]:
    """The options and the right letter. Several columns hold the right option first, and are shuffled by the id."""
    given = [problem.metadata.pop(f"{_OPTION}{number}") for number in range(columns)]
    if columns == 1:
        (given,) = given
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise ValueError("its options are no list")
    options = [str(option).strip() for option in given]
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        raise ValueError(f"{len(options)} options")
    if columns == 1:
        return options, _lettered(problem.answer.strip(), options, index_from)
    order = list(range(len(options)))
    random.Random(problem.id).shuffle(order)
    return [options[place] for place in order], string.ascii_uppercase[order.index(0)]
