"""Verdicts per second beside math-verify alone, latency, and what hostile answers cost.

math-verify runs in its own main thread with its own time limits.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h1r.mathematics import grade, tiers
from h1r.mathematics.read import read
from h1r.mathematics.value import same_value
from h1r.records import Problem, Verdict
from h1r.response.extract import split_response
from h1r.verify import VerifierPool
from verification.common import Context
from verification.math import areal, math_verify_alone, parsed_reference, problem, qwen_math, verified


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


HANGING = (
    r"\sum_{i=1}^{9999}\sum_{j=1}^{9999} \sqrt{i+j}",
    r"\int_0^{\infty} \frac{\ln(1+x^{7})}{x^{9}+3x^{4}+1} dx",
    r"\sum_{k=0}^{5000} \binom{5000}{k}^2 \cdot k",
)


def traces(quick: bool) -> list[tuple[Problem, str]]:
    """Real responses: short worked solutions and long thinking."""
    found = [(item.problem, item.text) for source in (qwen_math, areal) for item in source()]
    return found[::4] if quick else found


def rate(context: Context) -> dict[str, Any]:
    """Verdicts per second of processor time, ours and math-verify alone in turns, and ours with 1 % hostile answers.

    grade              the verdict alone, in this process: what math-verify gives
    pool               the verdict from a pool that survives hostile answers
    service            the same with the format checks of the whole response
    *_hostile          with 1 % of the answers replaced by hostile ones
    math_verify        math-verify alone; math_verify_cached: with each reference parsed once, before the clock starts

    Processor time counts the pool's workers; wall time is beside it. What is alive before the first run (math-verify's
    sympy above all) is kept from the garbage collector: one walk over it costs as much as all hostile answers of a run,
    and which run it falls into is chance.
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
    golds = {owner.answer: parsed_reference(owner.answer) for owner, _ in sample}
    lost = 0
    with VerifierPool(format_checks=False) as pool, VerifierPool() as service:
        for one in (pool, service):
            one.verify_many([problem(r"\int_0^1 x dx", "math")], [r"\boxed{\int_0^1 y dy}"])  # starts the worker
        runs: dict[str, tuple[int, Callable[[], Any]]] = {
            "grade": (len(work), lambda: [_grade(owner, text) for owner, text in work]),
            "pool": (len(work), lambda: graded(pool, work)),
            "pool_hostile": (len(mixed), lambda: graded(pool, mixed)),
            "service": (len(work), lambda: graded(service, work)),
            "service_hostile": (len(mixed), lambda: graded(service, mixed)),
            "math_verify": (len(sample), lambda: [math_verify_alone(owner.answer, text, {}) for owner, text in sample]),
            "math_verify_cached": (
                len(sample),
                lambda: [verified(golds[owner.answer], text) for owner, text in sample],
            ),
        }
        gc.collect()
        gc.freeze()
        processor: dict[str, list[float]] = {name: [] for name in runs}
        wall: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(repeats + 1):
            for name, (count, run) in runs.items():
                for cached in (read, same_value, tiers._known):  # what a run may profit from is its own
                    cached.cache_clear()
                start, used = time.perf_counter(), processor_seconds(pool, service)
                found = run()
                seconds, spent = time.perf_counter() - start, processor_seconds(pool, service) - used
                if name.endswith("hostile"):
                    lost += len(mixed) - len(found) + sum(found[place].reward > 0 for place in places)
                if turn:  # the first is a warm-up
                    wall[name].append(count / seconds)
                    processor[name].append(count / spent)
        gc.unfreeze()
        honest = sorted(latency(pool, owner, text) for owner, text in work)
        worst = {text[:40]: latency(pool, problem("x+5", "math"), text) for text in hostile}
    per_core = {name: round(statistics.median(values), 1) for name, values in processor.items()}
    return {
        "traces": len(work),
        "mean_chars": round(statistics.mean(len(text) for _, text in work)),
        "hostile_answers": len(places),
        "repeats": repeats,
        "verdicts_per_core_s": per_core,
        "verdicts_per_wall_s": {name: round(statistics.median(values), 1) for name, values in wall.items()},
        "over_math_verify": {
            name: round(per_core[name] / per_core["math_verify"], 2) for name in ("grade", "pool", "service")
        },
        "over_math_verify_cached": {
            name: round(per_core[name] / per_core["math_verify_cached"], 2) for name in ("grade", "pool", "service")
        },
        "throughput_lost_to_hostile": {
            name: round(1 - per_core[f"{name}_hostile"] / per_core[name], 4) for name in ("pool", "service")
        },
        "verdicts_lost_or_fooled": lost,
        "latency_ms": {f"p{share}": percentile(honest, share) for share in (50, 99, 100)},
        "slowest_hostile_ms": {
            text: round(1e3 * seconds, 1) for text, seconds in sorted(worst.items(), key=lambda item: -item[1])[:5]
        },
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def hanging(context: Context) -> dict[str, Any]:
    """What answers cost that only tier 2 may read and that keep it busy for hours: 1 % of them, and 2 workers.

    Every one costs a worker for its time limit; the honest answers do not wait for them.
    """
    work = traces(quick=True)
    places = random.Random(1).sample(range(len(work)), max(1, len(work) // 100))
    mixed = list(work)
    for turn, place in enumerate(places):
        mixed[place] = (problem("x+5", "math"), rf"\boxed{{{HANGING[turn % len(HANGING)]}}}")
    with VerifierPool(workers=2) as pool:
        graded(pool, [(problem(r"\int_0^1 x dx", "math"), r"\boxed{\int_0^1 y dy}")] * 2)
        expected = graded(pool, work)
        start = time.perf_counter()
        batch = pool.submit_many(*map(list, zip(*mixed, strict=True)))
        kept = set(range(len(mixed))) - set(places)
        found = {place: batch.verdict(place) for place in kept}
        honest_s = time.perf_counter() - start
        rewards = [batch.verdict(place) for place in places]
        seconds = time.perf_counter() - start
    return {
        "answers": len(mixed),
        "hanging": len(places),
        "honest_answers_all_in_s": round(honest_s, 2),
        "hanging_answers_all_in_s": round(seconds, 2),
        "honest_verdicts_changed": sum(found[place] != expected[place] for place in kept),
        "hanging_rewarded": sum(verdict.reward > 0 for verdict in rewards),
        "hanging_errors": sorted({verdict.error or "none" for verdict in rewards}),
    }


def percentile(ordered: list[float], share: int) -> float:
    return round(1e3 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)], 3)


def graded(pool: VerifierPool, work: list[tuple[Problem, str]]) -> list[Verdict]:
    return pool.verify_many(*map(list, zip(*work, strict=True)))


def latency(pool: VerifierPool, owner: Problem, text: str) -> float:
    start = time.perf_counter()
    pool.verify_many([owner], [text])
    return time.perf_counter() - start


def processor_seconds(*pools: VerifierPool) -> float:
    """What this process and the pools' workers have used, in seconds."""
    ticks = 0
    for pid in [pid for pool in pools for pid in pool.worker_pids()]:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _grade(owner: Problem, text: str) -> Verdict:
    """The verdict alone, in this process: no worker, no format checks. What math-verify alone is compared with."""
    answer = split_response(text).answer
    return grade(owner, answer) if answer else Verdict(0.0)


SECTIONS = {"rate": rate, "hanging": hanging}
