"""Reads a run directory into one typed structure, `RunReport`, and condenses it into `report.json`.

The rule: a stage that has not run is missing, said so and left out; a file that is there but does not read is an error
that names it. A report that quietly skipped half a file would be believed. Keys this version does not know are ignored,
so that older reports open newer runs. Sizes are bytes, times seconds, shares and accuracies 0 to 1.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from h1r.common.files import read_json
from h1r.errors import UserError
from h1r.records import read_lines
from h1r.report.benchmarks import Benchmark, benchmark_numbers, read_benchmarks
from h1r.report.paired import Difference, change
from h1r.report.safety import SafetySet, read_safety, safety_numbers
from h1r.report.shapes import Kind, validated
from h1r.report.stored import Attempt, CurateSummary, Dropped, EvalResult, PoolSummary, ScalingResult, StageCost
from h1r.run.metrics import read_metrics
from h1r.run.names import BASE, checkpoint_name

EVAL_STAGES = ("base", "sft", "rl")
DROPPED_PER_REASON = 3
"""Dropped samples kept of each (step, reason), drawn evenly from all of them."""

Metrics = list[dict[str, Any]]


@dataclass(frozen=True)
class Missing:
    """A part of the report that the run cannot fill: what it is, and the file it would come from."""

    what: str
    file: str


@dataclass(frozen=True)
class RunReport:
    """Everything the report shows of one run; what the run does not have is None or empty, and listed in `missing`."""

    path: Path
    recipe: dict[str, Any]
    attempts: list[Attempt]
    stages: dict[str, StageCost]
    curate: CurateSummary | None
    dropped: list[Dropped]
    sft: Metrics
    rl_pool: PoolSummary | None
    rl: Metrics
    evals: dict[str, EvalResult]
    scaling: ScalingResult | None
    missing: list[Missing]
    benchmarks: list[Benchmark] = field(default_factory=list)
    safety: list[SafetySet] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.path.resolve().name)

    @property
    def seed(self) -> int | None:
        return self.recipe.get("seed")

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that the recipe begins with, if any."""
        return self.recipe.get("model", {}).get("checkpoint")

    @property
    def titles(self) -> dict[str, str]:
        """What the model of each stage is called: the first one as the checkpoint that the recipe names, if any."""
        return STAGE_TITLES | ({BASE: checkpoint_name(self.checkpoint)} if self.checkpoint else {})

    @property
    def wall_seconds(self) -> float | None:
        """The sum over stages; None when no stage was timed."""
        return sum(cost.wall_seconds for cost in self.stages.values()) if self.stages else None

    @property
    def rl_gain(self) -> Difference | None:
        """What RL added to pass@1."""
        before, after = self.evals.get("sft"), self.evals.get("rl")
        if before is None or after is None:
            return None
        return change(before.outcomes, after.outcomes, after.confidence_level or 0.95)

    @property
    def peak_rss_bytes(self) -> int | None:
        return max((cost.peak_rss_bytes for cost in self.stages.values()), default=None)


def collect(run: str | Path) -> RunReport:
    """Reads a run directory. Raises `UserError` when it is none, or when a file in it does not read."""
    path = Path(run)
    if not (path / "recipe.json").exists():
        raise UserError(f"{path} is not a run directory (it has no recipe.json); give a directory that `h1r` wrote")
    reader = _Reader(path)
    costs = reader.json("stages.json", "time and memory") or {}
    recipe = read_json(path / "recipe.json")
    curate = reader.shape("curate/summary.json", CurateSummary, "curation")
    benchmarks = read_benchmarks(path, recipe, curate.contamination if curate else None)
    safety = read_safety(path, recipe)
    trains = any((path / stage).exists() for stage in ("curate", "sft", "rl_pool", "rl", "scaling"))
    return RunReport(
        path=path,
        recipe=recipe,
        benchmarks=benchmarks,
        safety=safety,
        attempts=[validated(Attempt, line, path / "attempts.jsonl") for line in reader.metrics("attempts.jsonl")],
        stages={name: validated(StageCost, cost, path / "stages.json") for name, cost in costs.items()},
        curate=curate,
        dropped=_sample_dropped(path / "curate" / "dropped.jsonl"),
        sft=reader.metrics("sft/metrics.jsonl", "the SFT learning curve"),
        rl_pool=reader.shape("rl_pool/summary.json", PoolSummary, "the selection of RL problems"),
        rl=reader.metrics("rl/metrics.jsonl", "the RL learning curves"),
        evals={
            stage: found
            for stage in EVAL_STAGES
            if (found := reader.shape(f"eval/{stage}.json", EvalResult, f"{STAGE_TITLES[stage]} accuracy"))
        },
        scaling=reader.shape("scaling/result.json", ScalingResult, "test-time scaling"),
        # A run that only evaluates lacks nothing.
        missing=_lacks(path, recipe, reader.missing) if trains or not (benchmarks or safety) else [],
    )


def _lacks(path: Path, recipe: Mapping[str, Any], missing: list[Missing]) -> list[Missing]:
    """Without the parts that a run on data of one's own, or from a checkpoint, never has, unless they were begun."""
    sft, rl = recipe.get("sft", {}), recipe.get("rl", {})
    if sft.get("data") or sft.get("mixture"):
        never = {"curate", "rl_pool", "rl", "scaling", "eval"}
    elif rl.get("problems"):
        never = {"curate", "sft", "scaling", "eval"}
    else:
        return missing
    return [one for one in missing if (part := one.file.partition("/")[0]) not in never or (path / part).exists()]


STAGE_TITLES = {"base": "Base", "sft": "SFT", "rl": "RL"}


def summarise(report: RunReport) -> dict[str, Any]:
    """`report.json`: the numbers of a run that a program wants, null where the run has none."""
    scaling = report.scaling
    summary: dict[str, Any] = {
        "name": report.name,
        "seed": report.seed,
        "checkpoint": report.checkpoint,
        "code_version": report.attempts[-1].model_dump(include={"h1r", "commit"}) if report.attempts else None,
        "pass_at_1": {stage: _of(report.evals.get(stage), "pass_at_1") for stage in EVAL_STAGES},
        "pass_at_1_interval": {stage: _of(report.evals.get(stage), "interval") for stage in EVAL_STAGES},
        "pass_at_1_per_family": {
            stage: {family: score.pass_at_1 for family, score in result.per_family.items()}
            for stage, result in report.evals.items()
        },
        "mean_tokens": {stage: _of(report.evals.get(stage), "mean_tokens") for stage in EVAL_STAGES},
        "benchmarks": benchmark_numbers(report.benchmarks),
        "safety": safety_numbers(report.safety),
        "rl_gain": asdict(report.rl_gain) if report.rl_gain else None,
        "scaling": None,
        "wall_seconds": report.wall_seconds,
        "peak_rss_bytes": report.peak_rss_bytes,
        "stages": {name: cost.model_dump() for name, cost in report.stages.items()},
        "missing": [part.file for part in report.missing],
    }
    if scaling:
        summary["scaling"] = {
            "budget": scaling.budget,
            "method": scaling.method,
            "majority": scaling.majority.model_dump(include={"accuracy", "tokens"}),
            "deepconf": scaling.deepconf.model_dump(include={"accuracy", "tokens"}),
            "token_saving": scaling.token_saving,
            "saving": scaling.saving.model_dump() if scaling.saving else None,
            "budgets": [
                {
                    "budget": entry.budget,
                    **{
                        method: score.model_dump(include={"accuracy", "tokens"})
                        for method in ("majority", "deepconf")
                        if (score := getattr(entry, method))
                    },
                }
                for entry in scaling.budgets
            ],
            "paired": scaling.paired.model_dump(),
            "voters": scaling.voters,
            "methods": {
                name: score.model_dump(include={"accuracy", "interval", "tokens", "paired"})
                for name, score in scaling.methods.items()
            },
        }
    return strict(summary)


def series(metrics: Metrics, key: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, without the steps at which it is absent or not finite."""
    points = [(line["step"], line[key]) for line in metrics if _is_number(line.get(key)) and "step" in line]
    return [step for step, _ in points], [float(value) for _, value in points]


def total(metrics: Metrics, key: str) -> float:
    """The sum of one metric over all steps, absent and non-finite values left out."""
    return sum(series(metrics, key)[1])


class _Reader:
    """Reads the files of one run and remembers which were not there."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.missing: list[Missing] = []

    def _present(self, file: str, what: str) -> bool:
        if (self.run / file).exists():
            return True
        if what:
            self.missing.append(Missing(what, file))
        return False

    def json(self, file: str, what: str) -> Any:
        return read_json(self.run / file) if self._present(file, what) else None

    def shape(self, file: str, kind: type[Kind], what: str) -> Kind | None:
        return validated(kind, self.json(file, what), self.run / file) if self._present(file, what) else None

    def metrics(self, file: str, what: str = "") -> Metrics:
        return read_metrics(self.run / file) if self._present(file, what) else []


def _sample_dropped(path: Path) -> list[Dropped]:
    """A few dropped records of each (step, reason), each equally likely to be shown, the same ones every time.

    A reservoir keeps memory constant on files of any length.
    """
    if not path.exists():
        return []
    rng = random.Random(0)
    kept: dict[tuple[str, str], list[Dropped]] = {}
    seen: dict[tuple[str, str], int] = {}
    for number, text in read_lines(path):
        if not text.strip():
            continue
        try:
            record = Dropped.model_validate(json.loads(text))
        except (ValidationError, json.JSONDecodeError):
            raise UserError(f"{path}, line {number}: not a dropped record; delete it and run its stage again") from None
        key = (record.step, record.reason)
        seen[key] = seen.get(key, 0) + 1
        group = kept.setdefault(key, [])
        if len(group) < DROPPED_PER_REASON:
            group.append(record)
        elif (place := rng.randrange(seen[key])) < DROPPED_PER_REASON:
            group[place] = record
    return [record for group in kept.values() for record in group]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _of(value: Any, name: str) -> Any:
    return None if value is None else getattr(value, name)


def strict(value: Any) -> Any:
    """The same tree as strict JSON in UTF-8: null for a number that is not finite, U+FFFD for a lone surrogate."""
    if isinstance(value, Mapping):
        return {strict(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
