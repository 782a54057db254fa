"""Tasks of inspect_ai as benchmarks of an evaluation: run on the run's model, their logs read into our results.

    eval/benchmarks/MODEL/NAME.json                 as every benchmark's
    eval/benchmarks/MODEL/NAME-whole.json           where a score has parts: problems all of whose parts are right
    eval/benchmarks/MODEL/NAME.KEY.inspect/         inspect_ai's own logs, for `inspect view`
    eval/benchmarks/MODEL/NAME.made.json            named files that the task wrote, as they were before its first run

A task that was stopped, or had samples that failed, goes on by inspect_ai's own retry: finished samples are not asked
again. A score that is a table, as SciCode's of its sub-problems, makes each part a problem of NAME; what is right
in all parts is in NAME-whole. A score below 1 is no right answer, as everywhere.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.common.files import contents, read_json, write_json
from h1r.common.hub import local_directory
from h1r.common.progress import note
from h1r.common.prose import counted
from h1r.config import EvalSection, InspectSection, Recipe
from h1r.errors import UserError
from h1r.evals.benchmark import result_of
from h1r.evals.kept import measured, unfinished
from h1r.evals.samples import Samples
from h1r.evals.stages import summary_of
from h1r.evals.summary import benchmark_line
from h1r.run.directory import Run

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog
    from inspect_ai.model import Model

WHOLE = "whole"
_SETTINGS = ("samples", "temperature", "top_p", "max_tokens")


def run_tasks(recipe: Recipe, run: Run, which: str) -> tuple[dict[str, dict[str, Any]], int]:
    """The summary of each delegated benchmark of the run's model `which`, and how many answers have no verdict yet.
    `UserError` where inspect_ai, the model or the task is not there."""
    _need_inspect()
    model, same = _model_name(recipe, run, which)
    found, without = {}, 0
    for section in recipe.eval.delegated:
        path = run.stage(f"eval/benchmarks/{which}") / f"{section.name}.json"
        with _files_of(section, path) as files:
            of = {**same, **_of(section, recipe), **({"files": files} if files else {})}
            result = measured(of, path, _Measure(section, recipe, model, path))
        found[section.name] = summary_of(result)
        note(benchmark_line(section.name, result))
        without += unfinished(result)
        if result["has_parts"]:
            found[f"{section.name}-{WHOLE}"] = summary_of(read_json(_whole(path)))
    return found, without


def _need_inspect() -> None:
    if importlib.util.find_spec("inspect_ai") is None:
        raise UserError('kind = "inspect" needs inspect_ai; run `pip install "open-h1r[inspect]"`')


def _whole(path: Path) -> Path:
    return path.with_name(f"{path.stem}-{WHOLE}.json")


def _model_name(recipe: Recipe, run: Run, which: str) -> tuple[tuple[str, dict[str, Any]], dict[str, Any]]:
    """(name after `h1r/`, keys of the recipe) of the model, and what a result depends on of it."""
    engine = recipe.engine.model_dump(exclude_defaults=True)
    keys = {f"engine.{key}": value for key, value in engine.items()}
    kind = recipe.engine.computes
    if recipe.engine.kind == "endpoint":
        if not (name := recipe.engine.endpoint.model):
            raise UserError("a task of inspect_ai wants the model's name; set engine.endpoint.model")
        asked = recipe.engine.endpoint.model_dump(include={"parameters"})
        return (name, keys), {"engine": {**kind, **asked, "model": name}, "server": recipe.engine.answers_of}
    place: Path | None = run.path / which / "model"
    if which == "base":
        place = local_directory(recipe.model.checkpoint) if recipe.model.checkpoint else None
    if place is None:
        raise UserError("tasks of inspect_ai ask a checkpoint here; set model.checkpoint, or evaluate a trained model")
    return (str(place), keys), {"engine": kind, "files": [contents(place)]}


def _of(section: InspectSection, recipe: Recipe) -> dict[str, Any]:
    """What a result depends on beside its model."""
    file = Path(section.task.partition("@")[0])
    packages = ["inspect_ai"] if file.is_file() else ["inspect_ai", section.task.partition("/")[0]]
    installed = importlib.metadata.packages_distributions()
    versions = {one: importlib.metadata.version(installed[one][0]) for one in packages if one in installed}
    return {
        "task": section.model_dump(exclude={"name", "expect"}),
        "task_file": contents(file) if file.is_file() else None,
        "versions": versions,
        "settings": _settings(section, recipe.eval).model_dump(include=set(_SETTINGS)),
        "seed": recipe.seed,
    }


@contextmanager
def _files_of(section: InspectSection, path: Path) -> Iterator[dict[str, str]]:
    """The digests of the files and directories that a task is given by name in `args` and `files`.

    One that the task wrote itself (a download, a cache) counts as it was before its first run: `path` with the ending
    `.made.json` keeps that, so that a finished task is not run again for what it left behind.
    """
    named = [Path(value) for value in (*section.args.values(), section.files) if isinstance(value, str) and value]
    kept = path.with_name(f"{path.stem}.made.json")

    def found() -> dict[str, str | None]:
        return {str(place): contents(place) if place.exists() else None for place in named}

    before = {**found(), **(read_json(kept) if kept.exists() else {})}
    try:
        yield {name: digest for name, digest in before.items() if digest}
    finally:
        if made := {name: before[name] for name, digest in found().items() if digest != before[name]}:
            write_json(kept, made)


def _settings(section: InspectSection, defaults: EvalSection) -> EvalSection:
    own = {"samples": section.samples, "max_tokens": section.max_tokens}
    return defaults.model_copy(update={key: value for key, value in own.items() if value is not None})


class _Measure:
    """Runs one task and writes its answers, as `benchmarks.measured` asks for it."""

    def __init__(self, section: InspectSection, recipe: Recipe, model: tuple[str, dict[str, Any]], path: Path) -> None:
        self._section, self._recipe, self._model, self._path = section, recipe, model, path
        self._asked = _settings(section, recipe.eval)

    def __call__(self, samples: Path) -> dict[str, Any]:
        from h1r.delegate.inspect_log import parts_of

        started = time.monotonic()
        log = self._log(samples.with_name(samples.name.replace(".samples.jsonl", ".inspect")))
        found = parts_of(log, self._section.scorer)
        if self._section.expect and not self._section.limit and found.problems != self._section.expect:
            raise UserError(
                f"benchmark `{self._section.name}` has {counted(found.problems, 'problem')}, and `expect` says "
                f"{self._section.expect}; is the task the right one?"
            )
        seconds = time.monotonic() - started
        result = self._result(found.each, samples, seconds)
        if found.whole:
            beside = samples.with_name(samples.name.replace(".samples", f"-{WHOLE}.samples"))
            whole = self._result(found.whole, beside, seconds)
            write_json(_whole(self._path), {**whole, "of": {"engine": self._engine()}, "samples": beside.name})
        return {**result, "has_parts": bool(found.whole), "log": Path(log.location).name}

    def _engine(self) -> dict[str, Any]:
        kind, model = self._recipe.engine.kind, self._recipe.engine.endpoint.model
        return {"kind": kind, "dtype": None, **({"model": model} if kind == "endpoint" else {})}

    def _result(self, rows: list[Any], path: Path, seconds: float) -> dict[str, Any]:
        from h1r.delegate.inspect_log import write_rows

        if not any(row.verdict for row in rows):
            why = next((row.trace.error for row in rows if row.trace.error), "the task gave no score")
            raise UserError(f"{self._section.task}: not one sample has a score: {why}")
        path.unlink(missing_ok=True)
        problems = list({row.problem.id: row.problem for row in rows}.values())
        with Samples(path, problems, self._asked.samples) as samples:
            write_rows(samples, rows)
            samples.finish()
            return result_of(samples, self._asked, self._recipe.seed, seconds).to_dict()

    def _log(self, directory: Path) -> EvalLog:
        """The task's log, of a new run or of one that goes on."""
        from inspect_ai import eval as evaluate
        from inspect_ai import eval_retry
        from inspect_ai._util.error import PrerequisiteError
        from inspect_ai.log import list_eval_logs, read_eval_log

        section, asked = self._section, self._asked
        how: dict[str, Any] = {"display": "none", "log_dir": str(directory), "fail_on_error": False}
        earlier = [read_eval_log(one) for one in list_eval_logs(str(directory))[:1]] if directory.is_dir() else []
        if earlier and earlier[0].status == "success" and not any(one.error for one in earlier[0].samples or ()):
            return earlier[0]
        note(f"{section.name}: inspect_ai runs {section.task}; `inspect view --log-dir {directory}` shows it")
        opened: list[Model] = []
        try:
            if earlier:
                (log,) = eval_retry(earlier[0], **how)
            else:
                opened.append(self._open(*self._model))
                (log,) = evaluate(
                    section.task,
                    model=opened[0],
                    model_roles={role: self._role(one) for role, one in section.roles.items()},
                    task_args=section.args,
                    sandbox=sandbox_of(section),
                    limit=section.limit or None,
                    epochs=asked.samples,
                    temperature=asked.temperature,
                    top_p=asked.top_p,
                    max_tokens=asked.max_tokens,
                    max_connections=self._recipe.engine.max_sequences,
                    seed=self._recipe.seed,
                    **how,
                )
        except PrerequisiteError as error:
            raise UserError(f"inspect_ai cannot run {section.task}: {error.message}") from None
        finally:
            for model in opened:
                model.api.release()
        if log.status != "success":
            raise UserError(
                f"inspect_ai did not finish {section.task} ({log.error.message if log.error else log.status}); the "
                f"same command goes on, and deleting {directory} begins anew"
            )
        return log

    def _open(self, name: str, keys: dict[str, Any]) -> Model:
        from inspect_ai.model import get_model

        importlib.import_module("h1r.delegate.inspect_registry")
        return get_model(f"h1r/{name}", memoize=False, **keys)

    def _role(self, role: Any) -> Model:
        from inspect_ai.model import get_model

        if role.url is None:
            return get_model(role.model)
        keys = {"engine.kind": "endpoint", "engine.url": role.url, "engine.key_variable": role.key_variable}
        return self._open(role.model, keys)


def sandbox_of(section: InspectSection) -> tuple[str, str] | str | None:
    """As inspect_ai takes it."""
    if section.sandbox is None or section.files is None:
        return section.sandbox
    package, colon, inner = section.files.partition(":")
    if not colon:
        return section.sandbox, str(Path(section.files).resolve())
    spec = importlib.util.find_spec(package)
    folders: Iterator[str] = iter(spec.submodule_search_locations or ()) if spec else iter(())
    if (folder := next(folders, None)) is None:
        raise UserError(f"files = `{section.files}`: there is no package `{package}`")
    return section.sandbox, str(Path(folder) / inner)
