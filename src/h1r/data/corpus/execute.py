"""Running a pass: one task per shard, in processes of this machine or as a Ray Data job.

    marker   WORK/PASS/SHARD.json     what the task returned; written last, so it stands for a finished task

A task is a name of a pass and a shard. Both executors call the same function with it; a task reads and writes files of
the run directory only, so that neither the order of tasks nor the machine shows in what they write.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from h1r.config import CorpusSection
from h1r.errors import UserError
from h1r.progress import progress
from h1r.run import read_json, write_json

TaskFunction = Callable[[Path, str], dict[str, Any]]
"""(work directory, shard) -> JSON counts."""


def marker(work: Path, name: str, shard: str) -> Path:
    """Where the result of a task stands."""
    return work / name / f"{shard}.json"


def run_pass(
    work: Path, name: str, shards: Sequence[str], function: TaskFunction, section: CorpusSection
) -> list[dict[str, Any]]:
    """Runs the tasks of a pass that are not done yet, and returns the results of all, in order of `shards`."""
    todo = [shard for shard in shards if not marker(work, name, shard).exists()]
    with progress(name.capitalize(), total=len(shards), unit="shard") as bar:
        bar.start_at(len(shards) - len(todo))
        if todo:
            execute = _ray if section.executor == "ray" else _local
            for _ in execute(work, name, todo, function, section):
                bar.advance()
    return [read_json(marker(work, name, shard)) for shard in shards]


def run_task(work: Path, name: str, shard: str, function: TaskFunction) -> None:
    """One task, and its marker."""
    write_json(marker(work, name, shard), function(work, shard))


def _local(
    work: Path, name: str, shards: Sequence[str], function: TaskFunction, section: CorpusSection
) -> Iterator[None]:
    workers = min(section.workers or os.cpu_count() or 1, len(shards))
    if workers == 1:
        for shard in shards:
            run_task(work, name, shard, function)
            yield
        return
    # Spawned, not forked: the verifier pool of this process has threads, which a fork would lose.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(run_task, work, name, shard, function) for shard in shards]
        try:
            for future in futures:
                future.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ray(work: Path, name: str, shards: Sequence[str], function: TaskFunction, section: CorpusSection) -> Iterator[None]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError(
            "corpus.executor = `ray` needs Ray Data; run `pip install 'open-h1r[ray]'` or set it to `local`"
        ) from None
    if not ray.is_initialized():
        ray.init(address=section.address, num_cpus=section.workers or None if section.address is None else None,
                 log_to_driver=False, include_dashboard=False)  # fmt: skip
    absolute = str(work.resolve())
    rows = [{"task": json.dumps([absolute, name, shard])} for shard in shards]

    def call(row: dict[str, Any]) -> dict[str, Any]:
        place, task_name, shard = json.loads(row["task"])
        try:
            run_task(Path(place), task_name, shard, function)
        except UserError as error:
            return {"shard": shard, "mistake": str(error)}
        return {"shard": shard, "mistake": ""}

    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(call)
    for row in data.iter_rows():
        if row["mistake"]:
            raise UserError(row["mistake"])
        yield
