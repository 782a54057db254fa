"""What a run keeps of an evaluation, each with all that it depends on, `of`: it is done anew only where that differs.

    eval/benchmarks/MODEL/NAME.json                   a result, of all that answers and scores depend on
    eval/controls/NAME.json  eval/controls/safety/NAME.json
        "refusals": {"PLACE OF THE PROBLEM": [reason, detail]}
                                                      what references and negative controls say of the problems, of
                                                      the problems, the settings and the code that grades

What a busy machine, or a judge that is down, may have said of a control is not kept, and nothing of a verifier of
somebody else, whose code nobody here can tell from another.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from h1r.common.files import read_json, write_json
from h1r.common.progress import note
from h1r.common.prose import listing
from h1r.config import ControlsSection
from h1r.records import Problem, Verdict, to_json
from h1r.rollout.pipeline import VerifyMany
from h1r.verify.controls import Refusal, examine
from h1r.verify.version import are_ours, grading_version

_PASSING = ("unscored", "time")
"""Reasons of verdicts that may be others the next time."""


def measured(of: Mapping[str, Any], path: Path, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` returns, kept in `path` with what it depends on, `of`. It is given the file of its answers.

    What was measured of the same is returned as it is, unless it lacks verdicts.
    """
    key = hashlib.blake2b(json.dumps(of, sort_keys=True).encode(), digest_size=4).hexdigest()
    samples = path.with_name(f"{path.stem}.{key}.samples.jsonl")
    if path.exists() and (kept := read_json(path)).get("of") == of and not unfinished(kept):
        note(f"{path} is finished; delete it and {samples.name} to measure again")
        return dict(kept)
    if not samples.exists():
        _say_what_differs(of, path)
    result = {**measure(samples), "of": of, "samples": samples.name}
    write_json(path, result)
    return result


def _say_what_differs(of: Mapping[str, Any], path: Path) -> None:
    """Why everything is asked although something is there."""
    moved = ""
    if "server" in of:
        moved = "; if its server has moved, set engine.endpoint.same_as to the address that it had"
    if path.exists():
        before = read_json(path).get("of", {})
        if other := sorted(key for key in {*of, *before} if of.get(key) != before.get(key)):
            hint = moved if "server" in other and "server" in before else ""
            note(f"{path} was measured with another value of {listing(other)}, and is measured anew{hint}")
    elif found := sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.samples.jsonl")):
        note(f"{found[0]} is of another model, server, data or other settings; all is asked anew{moved}")


def contents_of(problems: Sequence[Problem]) -> str:
    """A digest of problems, references and what their verifiers need."""
    text = "\0".join(map(to_json, problems))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def unfinished(result: Mapping[str, Any]) -> int:
    """Answers of a result that have no verdict and may get one: not scored, or failed in the engine."""
    answers = result.get("problems", 0) * result.get("samples_per_problem", 0)
    without = result.get("unscored", 0.0) + result.get("error", 0.0) - result.get("unanswerable", 0.0)
    return round(answers * without)


def refusals_of(
    problems: Sequence[Problem],
    verify_many: VerifyMany,
    section: ControlsSection,
    path: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Refusal | None]:
    """A refusal or None for each problem. path: where that is kept, and read when it is of the same; None: nowhere.
    settings: what verdicts depend on beside problems, controls and code. Raises as `examine` does."""
    of = {
        "problems": contents_of(problems),
        "controls": section.model_dump(exclude={"in_eval", "generated"}),
        "settings": dict(settings or {}),
        "code": grading_version(),
    }
    keeps = path is not None and are_ours(problem.verifier for problem in problems)
    if path is not None and keeps and path.exists() and (kept := read_json(path)).get("of") == of:
        found = {int(place): Refusal(*why) for place, why in kept["refusals"].items()}
        return [found.get(place) for place in range(len(problems))]
    passing = False

    def ask(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        nonlocal passing
        verdicts = verify_many(problems, texts)
        passing |= any(one.reason in _PASSING for one in verdicts)
        return verdicts

    refusals = examine(problems, ask, section, references=True).refusals
    if path is not None and keeps and not passing:
        rows = {str(place): astuple(why) for place, why in enumerate(refusals) if why}
        write_json(path, {"of": of, "refusals": rows})
    return refusals
