"""How long the stages of a run that are still to come will take, by what was measured in the same run.

    curate              nothing tells how far it is
    sft, rl             steps that are left, times the median of the last ones
    eval_MODEL          as long as the last evaluation that is finished
    pool                traces that are left, times seconds of a trace
    rl, not yet begun   its traces, times (seconds of a trace + tokens of a trace / tokens that SFT trains a second)
    scaling             problems times the largest budget, twice (majority, the method), times seconds of a trace

Tokens of a trace and seconds of a token are those of the last evaluation that is finished, with the run's own engine;
seconds, those of the pool once it is finished in one go: of so many traces, starting an engine is a small part.
What none of these measurements says is None, never a guess: before the first evaluation and SFT's second step that is
nearly everything. Left out: prompts, groups that RL drops and draws again, votes that end early, and what it takes a
stage to start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from h1r.common.files import read_json
from h1r.records import read_lines

_EVALUATIONS = ("eval_rl", "eval_sft", "eval_base")
"""The last one first."""


@dataclass(frozen=True, slots=True)
class _Generation:
    """What the last evaluation that is finished has measured. `seconds`: of all of it, its benchmarks included;
    `problems`: those held out."""

    seconds: float
    seconds_per_token: float
    tokens_per_trace: float
    problems: int

    def traces(self, count: float, max_tokens: int, trained_per_s: float | None = None) -> float:
        """Seconds of so many traces; with `trained_per_s`, of training on their tokens as well."""
        each = self.seconds_per_token + (1 / trained_per_s if trained_per_s else 0.0)
        return count * min(self.tokens_per_trace, max_tokens) * each


@dataclass(frozen=True, slots=True)
class Measured:
    """What the files of a run say of its speed. `stages` and `training`: as `live_state` has them."""

    run: Path
    recipe: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    training: Mapping[str, Any] | None
    trained_per_s: float | None
    """Tokens that SFT trains in a second."""

    def left(self, names: Sequence[str]) -> dict[str, float | None]:
        """Seconds that each of these stages still takes; None where that is not known."""
        generation = self._generation()
        return {one["name"]: self._left(one, generation) for one in self.stages if one["name"] in names}

    def _left(self, stage: Mapping[str, Any], generation: _Generation | None) -> float | None:
        name = stage["name"]
        if stage["done"]:
            return 0.0
        if self.training and self.training["stage"] == name and self.training["left_seconds"] is not None:
            return float(self.training["left_seconds"])
        if generation is None or name in ("curate", "sft"):
            return None
        if name.startswith("eval_"):
            return self._less_elapsed(generation.seconds, stage)
        if name == "pool":
            return self._pool(generation)
        section = self.recipe[name]
        if name == "rl":
            count = section["steps"] * section["batch_size"] * section["num_generations"]
            speed, generation = self.trained_per_s, self._with_pool(generation)
            return None if speed is None else generation.traces(count, section["max_tokens"], speed)
        problems = min(section["problems"], generation.problems)
        count = 2 * problems * max(section["budgets"], default=0)
        return self._less_elapsed(self._with_pool(generation).traces(count, section["max_tokens"]), stage)

    def _with_pool(self, generation: _Generation) -> _Generation:
        """The same tokens of a trace, with the speed of the pool where that is known."""
        took = next(stage["seconds"] for stage in self.stages if stage["name"] == "pool")
        traces = ((_lines(self.run / "rl_pool" / "rollouts.jsonl") or 1) - 1) * self.recipe["rl_pool"]["rollouts"]
        attempts = [json.loads(line)["stage"] for _, line in read_lines(self.run / "attempts.jsonl")] if took else []
        if not traces or attempts.count("rl_pool") != 1:
            return generation
        return replace(generation, seconds_per_token=took / traces / generation.tokens_per_trace)

    def _pool(self, generation: _Generation) -> float | None:
        section, rl = self.recipe["rl_pool"], self.recipe["rl"]
        if not section["rollouts"]:
            return 0.0
        own = self.run / "curate" / "problems_rl.jsonl"
        elsewhere = rl["problems"] or (self.recipe["sft"]["data"] and f"{self.recipe['sft']['data']}/{own.name}")
        problems = _lines(own if own.exists() and not rl["problems"] else Path(elsewhere or own))
        if problems is None:
            return None
        # The first line says what the rollouts depend on.
        done = max((_lines(self.run / "rl_pool" / "rollouts.jsonl") or 0) - 1, 0)
        count = max(problems - done, 0) * section["rollouts"]
        return generation.traces(count, section["max_tokens"] or rl["max_tokens"])

    def _generation(self) -> _Generation | None:
        took = {stage["name"]: stage["seconds"] for stage in self.stages if stage["done"]}
        for name in _EVALUATIONS:
            found = read_json(self.run / "done" / f"{name}.json") if took.get(name) else {}
            tokens = found.get("problems", 0) * found.get("samples_per_problem", 0) * (found.get("mean_tokens") or 0)
            if tokens:  # none where nothing is held out
                speed = found["seconds"] / tokens
                return _Generation(took[name], speed, found["mean_tokens"], found["problems"])
        return None

    def _less_elapsed(self, seconds: float, stage: Mapping[str, Any]) -> float | None:
        """Of a stage that runs, what is left; None when it takes longer than that."""
        if not stage["running"]:
            return seconds
        *_, (_, last) = read_lines(self.run / "attempts.jsonl")
        left = seconds - (time.time() - json.loads(last)["time"])
        return left if left > 0 else None


def trained_per_second(sft: Sequence[Mapping[str, Any]], recent: int) -> float | None:
    """The median of the last steps of SFT, in tokens; None before its second step."""
    found = [line["tokens_per_s"] for line in sft[1:][-recent:] if line.get("tokens_per_s")]
    return median(found) if found else None


def _lines(path: Path) -> int | None:
    """How many lines a file of JSON lines has; None where it is missing, or of another kind."""
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    found = path.stat()
    return _counted(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _counted(path: Path, size: int, changed: int) -> int:
    with open(path, "rb") as handle:
        return sum(part.count(b"\n") for part in iter(lambda: handle.read(1 << 20), b""))
