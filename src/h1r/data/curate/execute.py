"""Running a pass: one task per shard, in processes of this machine or as a Ray Data job.

    marker   WORK/PASS/SHARD.json     what the task returned; written last, so it stands for a finished task

A task is a name of a pass and a shard. Both executors call the same function with it; a task reads and writes files of
the run directory only, so that neither the order of tasks nor the machine shows in what they write.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from h1r.common.files import atomic, read_json
from h1r.common.progress import progress
from h1r.config import CorpusSection
from h1r.errors import UserError
from h1r.verify.workers.ray_cluster import RayCluster

TaskFunction = Callable[[Path, str], dict[str, Any]]
"""(work directory, shard) -> JSON counts."""


def marker(work: Path, name: str, shard: str) -> Path:
    """Where the result of a task stands."""
    return work / name / f"{shard}.json"


class Executor:
    """Runs passes where the recipe says. Use as a context manager: processes live as long as it does."""

    def __init__(self, section: CorpusSection) -> None:
        self._section = section
        self._pool: ProcessPoolExecutor | None = None
        self._cluster: RayCluster | None = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if self._cluster is not None:
            self._cluster.leave()

    def run_pass(self, work: Path, name: str, shards: Sequence[str], function: TaskFunction) -> list[dict[str, Any]]:
        """Runs the tasks of a pass that are not done yet, and returns the results of all, in order of `shards`."""
        todo = [shard for shard in shards if not marker(work, name, shard).exists()]
        with progress(name.capitalize(), total=len(shards), unit="shard") as bar:
            bar.start_at(len(shards) - len(todo))
            if todo:
                execute = self._ray if self._section.executor == "ray" else self._local
                for _ in execute(work, name, todo, function):
                    bar.advance()
        return [read_json(marker(work, name, shard)) for shard in shards]

    def _local(self, work: Path, name: str, shards: Sequence[str], function: TaskFunction) -> Iterator[None]:
        workers = self._section.workers or os.cpu_count() or 1
        if min(workers, len(shards)) == 1:
            for shard in shards:
                run_task(work, name, shard, function)
                yield
            return
        if self._pool is None:
            # Spawned, not forked: the verifier pool of this process has threads, which a fork would lose.
            self._pool = ProcessPoolExecutor(
                workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
            )
        futures = [self._pool.submit(run_task, work, name, shard, function) for shard in shards]
        for future in futures:
            future.result()
            yield

    def _ray(self, work: Path, name: str, shards: Sequence[str], function: TaskFunction) -> Iterator[None]:
        try:
            if self._cluster is None:
                self._cluster = RayCluster(self._section.address, num_cpus=self._section.workers or None)
            import ray.data
        except ImportError:
            raise UserError(
                "corpus.executor = `ray` needs Ray Data; run `pip install 'open-h1r[ray]'` or set it to `local`"
            ) from None
        # The bar of the pass says how far it is; Ray Data would say it again, in a dozen lines every ten seconds.
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        absolute = str(work.resolve())

        def call(row: dict[str, Any]) -> dict[str, Any]:
            try:
                run_task(Path(absolute), name, row["shard"], function)
            except UserError as error:
                return {"mistake": str(error)}
            return {"mistake": ""}

        rows = [{"shard": shard} for shard in shards]
        tasks = ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in tasks.map(call).iter_rows():
            if row["mistake"]:
                raise UserError(row["mistake"])
            yield


def run_task(work: Path, name: str, shard: str, function: TaskFunction) -> None:
    """One task, and its marker."""
    result = function(work, shard)
    with atomic(marker(work, name, shard)) as partial:
        partial.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone: a pool's process waits for work for ever otherwise."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="h1r-parent", daemon=True).start()
