"""Honest answers on a busy machine: how many are paid, and whether their verdicts repeat.

    python benchmarks/busy.py [--answers 1000] [--repeats 5] [--loops 3] [--json FILE]

Beside `--loops` endless loops for each core, `--repeats` times over, the same right answers are graded: a third is
mathematics that a worker has to decide (tier two), a third are programs tested as functions, a third are programs that
read standard input. Each program computes for a part of its limit, `LIMIT_S` of processor time. All are to be paid.

`stretch` is how much longer than its processor time this process takes on the wall beside the loops: what limits of
wall time would have to allow for.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify import VerifierPool, default_workers
from h1r.verify.workers.pool import decide
from loops import busy

LIMIT_S = 0.5
STEPS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loops", type=int, default=3, help="busy loops for each core")
    parser.add_argument("--json", type=Path, help="also write the result there, after each repeat")
    arguments = parser.parse_args()
    cases = honest_answers(arguments.answers)
    result: dict[str, Any] = {
        "answers": dict(Counter(kind for kind, _, _ in cases)),
        "cores": os.cpu_count(),
        "loops": arguments.loops * (os.cpu_count() or 1),
        "load_before": os.getloadavg()[0],
        "repeats": [],
    }
    first: list[Verdict] = []
    with busy(result["loops"]), VerifierPool(default_workers(), format_checks=False) as pool:
        result["stretch"] = stretch()
        for _ in range(arguments.repeats):
            start, load = time.monotonic(), os.getloadavg()[0]
            verdicts = pool.verify_many([problem for _, problem, _ in cases], [text for _, _, text in cases])
            first = first or verdicts
            unpaid = [
                {"kind": kind, "id": problem.id, "reason": verdict.reason, "error": verdict.error}
                for (kind, problem, _), verdict in zip(cases, verdicts, strict=True)
                if verdict.reward != 1.0
            ]
            row = {
                "paid": len(cases) - len(unpaid),
                "same_as_first": sum(one == other for one, other in zip(first, verdicts, strict=True)),
                "seconds": round(time.monotonic() - start, 1),
                "load": load,
                "unpaid": unpaid[:20],
            }
            result["repeats"].append(row)
            print(json.dumps(row), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def honest_answers(count: int) -> list[tuple[str, Problem, str]]:
    """(kind, problem, right answer), the kinds in turn."""
    makers = (mathematics, function, program)
    found = [makers[number % 3](number) for number in range(count)]
    quick = [problem.id for kind, problem, text in found if kind == "mathematics" and decide(problem, text, False)]
    assert not quick, f"no worker is needed for {quick[:3]}"
    return found


def mathematics(number: int) -> tuple[str, Problem, str]:
    """Equal expressions that have to be computed."""
    draw = random.Random(number)
    low, high, power = draw.randint(1, 4), draw.randint(5, 40), draw.randint(2, 4)
    total = sum(value**power for value in range(low, high + 1))
    reference, answer = draw.choice(
        [
            (rf"\sum_{{k={low}}}^{{{high}}} k^{power}", str(total)),
            (rf"\prod_{{k={low}}}^{{{high}}} (k+{power})", rf"\prod_{{j={low}}}^{{{high}}} ({power}+j)"),
        ]
    )
    return "mathematics", Problem(f"m{number}", "", reference, "math"), rf"\boxed{{{answer}}}"


def function(number: int) -> tuple[str, Problem, str]:
    """A function that computes for a while."""
    code = f"def f(n):\n    for _ in range({STEPS}):\n        n = (n * 5 + 3) % 1_000_003\n    return n"
    calls = [(number, iterated(number)), (number + 7, iterated(number + 7))]
    tests = {"fn_name": "f", "inputs": [[given] for given, _ in calls], "outputs": [[value] for _, value in calls]}
    return "functions", coded(f"f{number}", tests), f"```python\n{code}\n```"


def program(number: int) -> tuple[str, Problem, str]:
    """The same as a program that reads its number."""
    code = f"n = int(input())\nfor _ in range({STEPS}):\n    n = (n * 5 + 3) % 1_000_003\nprint(n)"
    tests = {"inputs": [f"{number}\n"], "outputs": [f"{iterated(number)}\n"]}
    return "programs", coded(f"p{number}", tests), f"```python\n{code}\n```"


def coded(name: str, tests: dict[str, Any]) -> Problem:
    return Problem(name, "", "", "code", metadata={"tests": tests, "limits": {"time_s": LIMIT_S, "total_s": 10.0}})


def iterated(value: int) -> int:
    """What the programs compute, by the closed form of a linear recurrence."""
    modulus = 1_000_003
    factor = pow(5, STEPS, modulus)
    return (value * factor + 3 * (factor - 1) * pow(4, -1, modulus)) % modulus


def stretch() -> float:
    """Wall time over processor time of a computation of one second."""
    wall, spent = time.monotonic(), time.process_time()
    while time.process_time() - spent < 1.0:
        sum(range(10_000))
    return round((time.monotonic() - wall) / (time.process_time() - spent), 1)


if __name__ == "__main__":
    main()
