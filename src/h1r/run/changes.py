"""What a changed recipe means for a run that has begun: what it would spoil, and what is to be measured again.

    a key that a trained or curated part depends on, once that part has begun    refused
    a key of evaluations or scaling                                              taken; these are measured again
    any key, while nothing that depends on it has begun                          taken

So a command that failed before it made anything pins nothing, and how a model is measured never costs the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from h1r.common.files import is_locked
from h1r.run.checkpoints import Checkpoints

NO_RESULT = frozenset(
    {
        *("name", "trackers", "parallel", "cluster", "engine", "rollout.max_failed_share", "ablation"),
        *("eval.benchmarks", "eval.held_out"),  # a result is filed with all that it depends on
        *("corpus.executor", "corpus.workers", "corpus.address", "corpus.memory_mb"),
    }
)  # fmt: skip
"""Keys of a recipe that change no result, so that a run may go on with others."""
_MEASURED = ("eval_base", "eval_sft", "eval_rl", "scaling")
_MODEL = ("sft", "pool", "rl", *_MEASURED)
_AFTER_SFT = ("pool", "rl", *_MEASURED)
_ALL = ("curate", *_MODEL)
POOL_READS = ("checkpoint", "problems", "max_tests", "partial_credit", "max_tokens")
"""Keys of [rl] that the selection of its problems reads too."""
_KEPT_BOOKS = ("recipe.json", "attempts.jsonl", "stages.json")
_STAGES_OF = {
    "eval": _MEASURED[:3],
    "scaling": ("scaling",),
    "controls.in_eval": _MEASURED[:3],
    "rl_pool": ("pool", "rl", "eval_rl", "scaling"),
    "rl": ("rl", "eval_rl", "scaling"),
    **{f"rl.{key}": ("pool", "rl", "eval_rl", "scaling") for key in POOL_READS},
    "sft": ("sft", "eval_sft", *_AFTER_SFT),
    "lora": ("sft", "eval_sft", *_AFTER_SFT),
    "model": _MODEL,
    "model.checkpoint": _ALL,  # its tokenizer encodes what is curated
    "sft.seq_len": _ALL,  # the width of the packed rows that curation writes
    "environment": _AFTER_SFT,
    "rollout": _ALL,  # of a teacher, too
}
"""Table or key of a recipe -> the stages whose results it changes; those of the longest name count, and else all."""
_OF_CURATION = frozenset({"controls", "corpus", "curate", "problems"})
"""Tables that SFT depends on through what is curated alone."""
DIRECTORIES = {"curate": "curate", "sft": "sft", "pool": "rl_pool", "rl": "rl"}
"""Stages that are not run again for a changed key, and their directories."""


def differences(left: Any, right: Any, place: str = "") -> dict[str, list[Any]]:
    """The dotted keys in which two JSON trees differ, with both values."""
    if isinstance(left, dict) and isinstance(right, dict):
        found: dict[str, list[Any]] = {}
        for key in sorted({*left, *right}):
            found |= differences(left.get(key), right.get(key), f"{place}.{key}" if place else key)
        return found
    return {} if left == right else {place: [left, right]}


def among(key: str, allowed: frozenset[str]) -> bool:
    """Whether a dotted key, or a table that it lies in, is allowed."""
    parts = key.split(".")
    return any(".".join(parts[:depth]) in allowed for depth in range(1, len(parts) + 1))


def stages_of(key: str) -> tuple[str, ...]:
    """The stages whose results a key changes, in order."""
    parts = key.split(".")
    names = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((_STAGES_OF[name] for name in names if name in _STAGES_OF), _ALL)


def spoilt(run: Path, key: str) -> list[str]:
    """The directories of what has begun in a run and depends on a key, and the marks that say that it is finished."""
    stages = stages_of(key)
    if key.split(".")[0] in _OF_CURATION and not _has_begun(run, "curate"):
        stages = tuple(stage for stage in stages if stage != "sft")  # it was trained on a file
    found = [stage for stage in stages if stage in DIRECTORIES and _has_begun(run, stage)]
    paths = [path for stage in found for path in (run / DIRECTORIES[stage], run / "done" / f"{stage}.json")]
    return [str(path) for path in paths if path.exists()]


def running(run: Path, key: str) -> str | None:
    """A stage that another process runs, and whose results a key changes."""
    return next((stage for stage in stages_of(key) if is_locked(run / f".{stage}.lock")), None)


def measured_before(run: Path, keys: list[str]) -> list[str]:
    """The evaluations of a run, and its scaling, that have a result which a change of these keys makes old."""
    affected = {stage for key in keys for stage in stages_of(key)}
    return [stage for stage in _MEASURED if stage in affected and any(map(Path.exists, _results(run, stage)))]


def set_aside(run: Path, stage: str) -> None:
    """Takes the result of an evaluation, or of scaling, out of the run. The answers of an evaluation stay, filed with
    all that they depend on; the result of scaling stays as scaling/result.before.json."""
    result, done = _results(run, stage)
    if stage == "scaling" and result.exists():
        result.replace(result.with_name("result.before.json"))
    result.unlink(missing_ok=True)
    done.unlink(missing_ok=True)


def is_bare(run: Path) -> bool:
    """Whether a run holds no more than its recipe, the log of its starts, locks, and what a curation lays out before it
    reads."""
    files = (path.relative_to(run) for path in run.rglob("*") if not path.is_dir())
    return all(
        str(path) in _KEPT_BOOKS
        or path.name.endswith(".lock")
        or (path.parts[:2] == ("curate", "work") and path.parts[2] != "read")
        for path in files
    )


def _results(run: Path, stage: str) -> tuple[Path, Path]:
    result = run / "scaling/result.json" if stage == "scaling" else run / "eval" / f"{stage.removeprefix('eval_')}.json"
    return result, run / "done" / f"{stage}.json"


def _has_begun(run: Path, stage: str) -> bool:
    """Whether a stage has left anything that it would go on from."""
    if (run / "done" / f"{stage}.json").exists():
        return True
    directory = run / DIRECTORIES[stage]
    if stage == "curate":
        return any((directory / name).exists() for name in ("summary.json", "samples.jsonl")) or any(
            (directory / "work/read").glob("*")
        )
    if stage == "pool":
        return (directory / "pool.jsonl").exists()
    return (directory / "model").exists() or Checkpoints(directory).latest() is not None
