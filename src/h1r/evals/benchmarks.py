"""The benchmarks of a recipe: files or hub data with a verifier, a prompt, and how often each problem is asked.

    [[eval.benchmarks]]        eval/benchmarks/MODEL/NAME.json

A finished benchmark is not asked again of the same weights: `h1r eval` that was stopped goes on at the next one.

`recipes/h1r-7b-eval.toml` has those of the paper (arXiv 2601.02346, section 4.1). Its agents (tau2, Terminal-Bench) and
SciCode need environments of their own and are not here.
"""

from __future__ import annotations

import hashlib
import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from h1r.common.files import read_json, write_json
from h1r.common.progress import note
from h1r.config import BenchmarkSection, ControlsSection, EvalSection
from h1r.data.curate.io.read import Reader, files_of
from h1r.errors import UserError
from h1r.records import Problem, to_json
from h1r.rollout.pipeline import VerifyMany
from h1r.verify.controls import examine

NAMED = 5
"""Unusable problems that a note names; the result has them all."""
_OPTION, _ONLY, _WITHOUT = "option ", "only ", "without "
_PLACE = re.compile(r"\{(\w+)\}")


def load_benchmark(section: BenchmarkSection, root: str = ".") -> list[Problem]:
    """The problems in the order of the file, with the prompt as their question.

    Rows that cannot be used are counted in a note; a benchmark without one usable row is a `UserError`.
    """
    wanted = {
        **section.metadata,
        **{f"{_OPTION}{number}": column for number, column in enumerate(section.options)},
        **{f"{_ONLY}{column}": column for column in section.only},
        **{f"{_WITHOUT}{column}": f"{column}?" for column in section.without},
    }
    found: list[Problem] = []
    bad: list[str] = []
    for number, path in enumerate(files_of(section, root)):
        reader = Reader(section.model_copy(update={"metadata": wanted}), path, number)
        for item in reader.items():
            problem = item.problem
            if not _is_wanted(problem, section):
                continue
            try:
                found.append(_asked(problem, section))
            except ValueError as error:
                bad.append(f"{problem.id}: {error}")
            if section.limit and len(found) >= section.limit:
                break
        bad += [f"line {line.line}: {line.why}" for line in reader.bad]
        if section.limit and len(found) >= section.limit:
            break
    if not found:
        raise UserError(
            f"benchmark `{section.name}` has no usable problem{f' ({bad[0]})' if bad else ''}; check its columns"
        )
    if bad:
        note(f"benchmark {section.name}: {len(bad)} rows cannot be used, the first at {bad[0]}")
    return found


def check_verifiers(benchmarks: Mapping[str, Sequence[Problem]], verify_many: VerifyMany) -> None:
    """Grades one answer to each benchmark; `UserError` for a verifier that cannot work, before anything is asked."""
    firsts = [problems[0] for problems in benchmarks.values()]
    verify_many(firsts, ["This is no answer."] * len(firsts))


def accepted(
    name: str, problems: Sequence[Problem], verify_many: VerifyMany, section: ControlsSection
) -> tuple[list[Problem], list[dict[str, str]]]:
    """The problems of a benchmark that are asked, and {id, reason, detail} of those that cannot be trusted.

    These are problems whose reference does not score, or that pay an answer which solves nothing. `controls.in_eval`
    says what becomes of them: left out, or asked all the same. `UserError` where it is to stop, or nothing is left.
    """
    if not section.enabled:
        return list(problems), []
    found = examine(problems, verify_many, section, references=True)
    pairs = list(zip(problems, found.refusals, strict=True))
    bad = [{"id": one.id, "reason": why.reason, "detail": why.detail} for one, why in pairs if why]
    if not bad:
        return list(problems), []
    named = "; ".join(f"{row['id']}: {row['reason']}" for row in bad[:NAMED])
    sentence = f"benchmark {name}: {len(bad)} of {len(problems)} problems are unusable ({named})"
    kept = [one for one, why in pairs if not why]
    if section.in_eval == "stop" or (section.in_eval == "refuse" and not kept):
        raise UserError(f"{sentence}; mend the benchmark, or set controls.in_eval to `report`")
    note(sentence if section.in_eval == "refuse" else f"{sentence} and asked all the same")
    return (kept if section.in_eval == "refuse" else list(problems)), bad


def measured(
    problems: Sequence[Problem], asked: EvalSection, weights: Any, path: Path, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `measure` returns, kept in `path` with what it depends on: problems, settings, and which `weights`."""
    contents = "\0".join(to_json(problem) for problem in problems)
    of = {
        "problems": hashlib.sha256(contents.encode("utf-8", "surrogatepass")).hexdigest(),
        "settings": asked.model_dump(exclude={"benchmarks"}),
        "weights": weights,
    }
    if path.exists() and (kept := read_json(path)).get("of") == of:
        note(f"{path} is finished; delete it to measure again")
        return dict(kept)
    result = {**measure(), "of": of}
    write_json(path, result)
    return result


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


def _asked(problem: Problem, section: BenchmarkSection) -> Problem:
    """The problem with its options in order and its prompt put together; `ValueError` when it cannot be graded."""
    values: dict[str, Any] = {"question": problem.question}
    if section.options:
        options, answer = _options(problem, len(section.options))
        problem.metadata["options"] = options
        problem.answer = answer
        if answer not in [*string.ascii_uppercase[: len(options)], *options]:
            raise ValueError(f"its answer {answer[:40]!r} is none of the options")
        pairs = zip(string.ascii_uppercase, options, strict=False)
        values["options"] = "\n".join(f"{letter}) {text}" for letter, text in pairs)
    if not problem.answer.strip() and not problem.metadata:
        raise ValueError("it has neither an answer nor what its verifier needs instead")
    values = {**problem.metadata, **values}
    problem.question = _PLACE.sub(lambda match: str(values.get(match[1], match[0])), section.prompt)
    return problem


def _options(problem: Problem, columns: int) -> tuple[list[str], str]:
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
        return options, problem.answer
    order = list(range(len(options)))
    random.Random(problem.id).shuffle(order)
    return [options[place] for place in order], string.ascii_uppercase[order.index(0)]
