"""What a verdict on code costs: the start of a confined run at each level, beside other ways, and verdicts a second.

`bwrap_each` starts bubblewrap and an interpreter for every run, as sandboxes without a fork server do; `python_each`
starts the interpreter alone, unconfined.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from h1r.sandbox import Isolation, Limits, Sandbox, bubblewrap, refusal
from h1r.sandbox.runner import readable_paths
from verification.code import base_judgements
from verification.common import Context

RUNS = 60


def start_ms(run: Callable[[], Any], count: int = RUNS) -> dict[str, float]:
    run()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {
        "median": round(1e3 * statistics.median(seconds), 2),
        "p90": round(1e3 * sorted(seconds)[count * 9 // 10], 2),
    }


def starts(context: Context) -> dict[str, Any]:
    """Milliseconds from the order to run an empty program to the report that nothing of it is left."""
    count = RUNS // 4 if context.quick else RUNS
    found: dict[str, Any] = {"runs": count}
    for level in (Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK, Isolation.RLIMITS):
        if why := refusal(level):
            found[level.name.lower()] = f"refused here: {why}"
            continue
        with Sandbox(level) as sandbox:
            begun = time.perf_counter()
            sandbox.run({"kind": "python", "code": ""})
            found[f"{level.name.lower()}_fork_server_ms"] = round(1e3 * (time.perf_counter() - begun), 1)
            found[level.name.lower()] = start_ms(lambda box=sandbox: box.run({"kind": "python", "code": ""}), count)
    found["python_each"] = start_ms(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True), count)
    if program := bubblewrap.executable():
        words = [*bubblewrap.command(program, readable_paths(), 1 << 20), sys._base_executable, "-I", "-S", "-c", ""]  # type: ignore[attr-defined]
        found["bwrap_each"] = start_ms(lambda: subprocess.run(words, check=True), count)
    return found


def throughput(context: Context) -> dict[str, Any]:
    """Verdicts a second on recorded solutions that pass, through the pool, with a sandbox per core."""
    judged = [item for item in base_judgements() if item.recorded and item.problem.id.startswith("HumanEval")]
    judged = judged[:: 4 if context.quick else 1]
    arguments = [item.problem for item in judged], [item.text for item in judged]
    context.pool.verify_many(*arguments)  # expected results come from references, which are run once
    start = time.perf_counter()
    verdicts = context.pool.verify_many(*arguments)
    seconds = time.perf_counter() - start
    tests = sum(verdict.parts["tests_total"] for verdict in verdicts)
    return {
        "verdicts": len(verdicts),
        "verdicts_per_s": round(len(verdicts) / seconds, 1),
        "tests_per_s": round(tests / seconds, 1),
        "limits": {"time_s": Limits().time_s, "memory_bytes": Limits().memory_bytes},
    }


SECTIONS = {"code_starts": starts, "code_throughput": throughput}
