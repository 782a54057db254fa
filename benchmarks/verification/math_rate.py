"""Verdicts per second beside math-verify alone, latency, and what hostile answers cost.

math-verify runs in its own main thread with its own time limits.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify import VerifierPool
from h1r.verify.extract import split_response
from h1r.verify.math import grade
from h1r.verify.math.read import read
from h1r.verify.math.value import same_value
from verification.common import Context
from verification.math import areal, math_verify_alone, problem, qwen_math


def hostile_answers() -> list[str]:
    """One of each kind of answer that is made to stop a verifier."""
    contents = {
        "deep nests": "(" * 5_000 + ")" * 5_000,
        "deep fractions": r"\frac{" * 900 + "1" + "}{2}" * 900,
        "deep roots": r"\sqrt{" * 200 + "x" + "}" * 200,
        "power tower": "9^{9^{9^{9^{9}}}}",
        "huge exponent": "7^{999999999}",
        "large exponent": "99999^{99999}",
        "huge factorial": "999999999!",
        "nested factorial": "((((9!)!)!)!)!",
        "ten megabytes": "5" * 10_000_000,
        "long number": "1" * 9_000,
        "long sum": "+".join(["x"] * 2_000),
        "unknowns": "+".join(rf"\sin({letter}^{{99}})" for letter in "abcdfghjklmnopqrs"),
        "regex food, blanks": r"\text{" + " " * 9_000 + "x",
        "regex food, dollars": "$" * 5_000,
        "regex food, units": "5 " + "cm/" * 3_000,
        "regex food, brackets": "[(" * 2_000,
        "unreadable integral": r"\int_0^{9^{9^9}} x^{x^x} dx",
        "unreadable sum": r"\sum_{k=1}^{99999999} k!",
        "matrix bomb": r"\begin{pmatrix}" + r"9^{9^9} & " * 60 + r"1\end{pmatrix}",
        "list bomb": ",".join(f"x^{{{power}}}" for power in range(2_000)),
    }
    boxed = [rf"Thus \boxed{{{content}}}" for content in contents.values()]
    return [*boxed, "a" * 10_000_000, r"\boxed{" * 500_000, "<think>" * 100_000]


def traces(quick: bool) -> list[tuple[Problem, str]]:
    """Real responses: short worked solutions and long thinking."""
    found = [(item.problem, item.text) for source in (qwen_math, areal) for item in source()]
    return found[::4] if quick else found


def rate(context: Context) -> dict[str, Any]:
    """Verdicts per second of processor time, ours and math-verify alone in turns, and ours with 1 % hostile answers.

    `grade` is the verdict alone, in this process, which is what math-verify gives; `pool` is the verdict from a pool
    that survives hostile answers; `service` has the format checks of the whole response too. Processor time counts
    the pool's workers; wall time is beside it.
    """
    quick = context.quick
    work = traces(quick)
    repeats = 3 if quick else 5
    hostile = hostile_answers()
    mixed = list(work)
    places = random.Random(0).sample(range(len(mixed)), max(1, len(mixed) // 100))
    for turn, place in enumerate(places):
        mixed[place] = (problem("x+5", "math"), hostile[turn % len(hostile)])
    sample = work[:: 8 if quick else 4]
    lost = 0
    with VerifierPool(workers=1) as pool:
        pool.verify_many([problem(r"\int_0^1 x dx", "math")], [r"\boxed{\int_0^1 y dy}"])  # starts the worker
        runs: dict[str, tuple[int, Callable[[], Any]]] = {
            "grade": (len(work), lambda: [_grade(owner, text) for owner, text in work]),
            "service": (len(work), lambda: pool.verify_many(*map(list, zip(*work, strict=True)))),
            "hostile": (len(mixed), lambda: pool.verify_many(*map(list, zip(*mixed, strict=True)))),
            "math_verify": (len(sample), lambda: [math_verify_alone(owner.answer, text, {}) for owner, text in sample]),
        }
        processor: dict[str, list[float]] = {name: [] for name in runs}
        wall: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(repeats + 1):
            for name, (count, run) in runs.items():
                for cached in (read, same_value):  # a run may profit from its own references, not from the run before
                    cached.cache_clear()
                start, used = time.perf_counter(), processor_seconds(pool)
                found = run()
                if name == "hostile":
                    lost += len(mixed) - len(found) + sum(found[place].reward > 0 for place in places)
                if turn:  # the first is a warm-up
                    wall[name].append(count / (time.perf_counter() - start))
                    processor[name].append(count / (processor_seconds(pool) - used))
        latencies = sorted(latency(pool, owner, text) for owner, text in mixed)
        worst = {text[:40]: round(latency(pool, problem("x+5", "math"), text), 4) for text in hostile}
    rates_per_core = {name: round(statistics.median(values), 1) for name, values in processor.items()}
    return {
        "traces": len(work),
        "mean_chars": round(statistics.mean(len(text) for _, text in work)),
        "hostile_share": len(places) / len(mixed),
        "repeats": repeats,
        "verdicts_per_core_s": rates_per_core,
        "verdicts_per_wall_s": {name: round(statistics.median(values), 1) for name, values in wall.items()},
        "grade_over_math_verify": round(rates_per_core["grade"] / rates_per_core["math_verify"], 1),
        "service_over_math_verify": round(rates_per_core["service"] / rates_per_core["math_verify"], 2),
        "throughput_lost_to_hostile": round(1 - rates_per_core["hostile"] / rates_per_core["service"], 4),
        "verdicts_lost_or_fooled": lost,
        "latency_ms": {
            "p50": round(1e3 * latencies[len(latencies) // 2], 3),
            "p99": round(1e3 * latencies[int(len(latencies) * 0.99)], 3),
            "max": round(1e3 * latencies[-1], 3),
        },
        "slowest_hostile_s": dict(sorted(worst.items(), key=lambda item: -item[1])[:5]),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def latency(pool: VerifierPool, owner: Problem, text: str) -> float:
    start = time.perf_counter()
    pool.verify_many([owner], [text])
    return time.perf_counter() - start


def processor_seconds(pool: VerifierPool) -> float:
    """What this process and the pool's workers have used, in seconds."""
    ticks = 0
    for pid in pool.worker_pids():
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _grade(owner: Problem, text: str) -> Verdict:
    """The verdict alone, in this process: no worker, no format checks. What math-verify alone is compared with."""
    answer = split_response(text).answer
    return grade(owner, answer) if answer else Verdict(0.0)


SECTIONS = {"rate": rate}
