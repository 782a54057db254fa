"""Curation at scale: records per second of one core, peak memory, and how both change with the input.

python benchmarks/curate.py [--records N] [--real] [--datatrove PYTHON] [--ray] [--quick] [--json FILE]

Rows, each measured in a process of its own:

    whole N      everything: read, verify references, decontaminate, copies, near copies, RL rule; --real adds every
                 record and the benchmarks of recipes/curation-real.toml (H1R_DATA)
    dedup N      read, exact and near duplicates only: what a MinHash pipeline does; --real adds the questions of every
                 real record
    dedup N/10   generated records only, a tenth of them: memory must not follow the input
    datatrove    its MinHash on the files of `dedup N` (`curation/datatrove_minhash.py`), with another Python

    controls     `whole` on at most 10,000 records with and without negative controls, in turns, and the median ratio of
                 processor time
    executors    `whole` on at most 100,000 records by two local processes and by two tasks of Ray Data at once (--ray):
                 the rate of both, Ray's start included, and whether every output byte is the same

`found` compares what was dropped with what was planted: copies and near copies found, and new problems dropped, which
are false alarms. Of real questions nobody planted copies; how many were dropped stands there too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = ["tenth", "dedup", "whole", "controls", "datatrove", "executors"]
CONTROLS_REPEATS = 3
HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "recipes" / "curation-real.toml"


def recipe_for(scratch: Path, whole: bool, real: bool, controls: bool = True, **corpus: Any) -> Any:
    from h1r.config import load_recipe, resolve

    source = {
        "name": "input", "kind": "jsonl", "path": str(scratch / "input" / "*.jsonl"), "use": "rl",
        "columns": {"question": "question", "answer": "answer", "id": "id"}, "verifier": "math" if whole else "",
    }  # fmt: skip
    known = load_recipe(RECIPE).model_dump(mode="json")["corpus"] if real else {"sources": [], "benchmarks": []}
    section = {**known, "sources": [*known["sources"], source], "workers": 1, "mixture": {}, **corpus}
    section["shard_records"] = 10_000
    tree = {"name": "bench", "corpus": section, "curate": {"near_duplicate_content": 0.75}, "verify": {"workers": 1}}
    tree["controls"] = {"enabled": controls}
    return resolve({**tree, "chat": {"system_prompt": ""}}, None, "benchmark")


def measure(scratch: Path, run: Path, whole: bool, real: bool, controls: bool = True, **corpus: Any) -> None:
    """The measured process: curates and prints its cost. Ray's processes are none of its children, and not counted."""
    from h1r.common.progress import quiet
    from h1r.data.curate.plan import curate
    from h1r.run.directory import Run

    quiet()
    recipe = recipe_for(scratch, whole, real, controls, **corpus)
    start = time.perf_counter()
    summary = curate(recipe, Run.open(run, recipe))
    seconds = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    records = summary["table"][0]["in"]
    cpu = sum(one.ru_utime + one.ru_stime for one in usage)
    row = {
        "records": records,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "records_per_s": round(records / seconds, 1),
        "records_per_cpu_s": round(records / cpu, 1),
        "peak_rss_mb": round(usage[0].ru_maxrss / 1024),
        "peak_child_rss_mb": round(usage[1].ru_maxrss / 1024),
        "dropped": {one["step"]: one["in"] - one["out"] for one in summary["table"] if one["in"] != one["out"]},
    }
    print("RESULT " + json.dumps(row))


def in_process(command: list[str]) -> dict[str, Any]:
    """Runs a measured process and returns what it printed after RESULT."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def curation(scratch: Path, whole: bool, real: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch) as run:
        options = ["--measure", str(scratch), run, *["--whole"] * whole, *["--real"] * real]
        row = in_process([sys.executable, __file__, *options])
        dropped = set()
        with open(Path(run) / "curate" / "dropped.jsonl", encoding="utf-8") as lines:
            for line in lines:
                one = json.loads(line)
                if one["source"] == "input" and one["step"] in ("exact duplicates", "near duplicates"):
                    dropped.add(one["id"].removeprefix("input:"))
        return {"engine": "h1r", "work": "whole" if whole else "dedup", **row, "found": found(scratch, dropped)}


def controls(scratch: Path, real: bool) -> dict[str, Any]:
    """What the gate of negative controls adds to a whole curation."""
    spent: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(CONTROLS_REPEATS):
        for with_controls in (True, False):
            with tempfile.TemporaryDirectory(dir=scratch) as run:
                options = ["--measure", str(scratch), run, "--whole", *["--real"] * real]
                options += [] if with_controls else ["--without-controls"]
                row = in_process([sys.executable, __file__, *options])
                spent[with_controls].append(row["cpu_seconds"])
    ratios = [one / other for one, other in zip(spent[True], spent[False], strict=True)]
    times = {"with_cpu_s": spent[True], "without_cpu_s": spent[False]}
    return {"work": "controls", "records": row["records"], **times, "ratio": round(statistics.median(ratios), 3)}


def datatrove(scratch: Path, python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch) as target:
        script = str(HERE / "curation" / "datatrove_minhash.py")
        row = in_process([python, script, str(scratch / "input"), target])
        kept = set()
        for path in sorted((Path(target) / "kept").glob("*.jsonl")):
            with open(path, encoding="utf-8") as lines:
                kept.update(json.loads(line)["id"] for line in lines)
        everything = {row["id"] for row in input_rows(scratch)}
        records = len(everything)
        rates = {
            "records": records,
            "records_per_s": round(records / row["seconds"], 1),
            "records_per_cpu_s": round(records / row["cpu_seconds"], 1),
        }
        return {"engine": "datatrove", "work": "dedup", **rates, **row, "found": found(scratch, everything - kept)}


def input_rows(scratch: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((scratch / "input").glob("*.jsonl")):
        with open(path, encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def found(scratch: Path, dropped: set[str]) -> dict[str, str]:
    """Dropped of what there is, by kind."""
    planted: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    for row in input_rows(scratch):
        planted[row["kind"]] += 1
        hit[row["kind"]] += row["id"] in dropped
    return {kind: f"{hit[kind]} of {count}" for kind, count in sorted(planted.items())}


def write_real(path: Path) -> None:
    """The questions and answers of the real sources, as lines of the generated ones (`curation/generated.py`)."""
    from h1r.config import load_recipe
    from h1r.data.curate.io.read import Reader
    from h1r.data.curate.passes import input_files

    recipe = load_recipe(RECIPE)
    with open(path, "w", encoding="utf-8") as lines:
        for number, (source, name) in enumerate(input_files(recipe)):
            assert source is not None  # nothing of this recipe is drawn
            for item in Reader(source, name, number).items():
                row = {"id": f"real-{item.ordinal}", "question": item.problem.question, "kind": "real"}
                lines.write(json.dumps({**row, "answer": item.problem.answer, "text": row["question"]}) + "\n")


def executors(scratch: Path, real: bool) -> dict[str, Any]:
    """The rate of both executors on what lies in `scratch`, and the digests of everything that each writes."""
    rows, digests = {}, {}
    for executor in ("local", "ray"):
        with tempfile.TemporaryDirectory(dir=scratch) as run:
            options = ["--measure", str(scratch), run, "--whole", *["--real"] * real, "--executor", executor]
            row = in_process([sys.executable, __file__, *options])
            rows[executor] = {"seconds": row["seconds"], "records_per_s": row["records_per_s"]}
            stage = Path(run) / "curate"
            digest = hashlib.sha256()
            for path in sorted(path for path in stage.rglob("*") if path.is_file() and "spill" not in path.parts):
                if path.name != "recipe.json":
                    digest.update(str(path.relative_to(stage)).encode() + path.read_bytes())
            digests[executor] = digest.hexdigest()
    same = len(set(digests.values())) == 1
    return {"work": "executors", "workers": 2, "records": row["records"], **rows, "identical": same, "digests": digests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--real", action="store_true", help="add the real records and benchmarks of H1R_DATA")
    parser.add_argument("--datatrove", metavar="PYTHON", help="a Python that has datatrove")
    parser.add_argument("--ray", action="store_true", help="measure and compare the executors")
    parser.add_argument("--only", choices=PARTS, nargs="+")
    parser.add_argument("--quick", action="store_true", help="20,000 records")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--without-controls", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--executor", choices=["local", "ray"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        two = {"executor": arguments.executor, "workers": 2} if arguments.executor else {}
        measure(*arguments.measure, arguments.whole, arguments.real, not arguments.without_controls, **two)
        return
    from curation.generated import write_generated

    size = 20_000 if arguments.quick else arguments.records
    wanted = arguments.only or PARTS
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="h1r-curate-") as name:
        scratch = Path(name)
        (scratch / "input").mkdir()
        for part in wanted:
            count = {"tenth": size // 10, "executors": min(size, 100_000), "controls": min(size, 10_000)}.get(
                part, size
            )
            write_generated(scratch / "input" / "generated.jsonl", count)
            (scratch / "input" / "real.jsonl").unlink(missing_ok=True)
            if arguments.real and part in ("dedup", "datatrove"):
                write_real(scratch / "input" / "real.jsonl")
            if part in ("tenth", "dedup"):
                rows.append(curation(scratch, whole=False, real=False))
            elif part == "whole":
                rows.append(curation(scratch, whole=True, real=arguments.real))
            elif part == "controls":
                rows.append(controls(scratch, real=arguments.real))
            elif part == "datatrove" and arguments.datatrove:
                rows.append(datatrove(scratch, arguments.datatrove))
            elif part == "executors" and arguments.ray:
                rows.append(executors(scratch, arguments.real))
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
