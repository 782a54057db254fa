"""`h1r eval` killed at random moments (`kill -9` of its whole process group) and given again: is an answer lost that
was kept, one asked for that was there, or a score changed?

    python benchmarks/eval_kill_test.py [--kills 20] [--requests 64] [--problems 100] [--samples 4] [--seed 0]

Two benchmarks, mathematics and letters, of a recorded server that breaks connections and goes on when its client is
dead. They are measured once without interruption, then again and again, each time killed up to six times. The moment is
a random number of answers in their files, and a random time longer: so it falls into the start of a command, while
answers come, while the last verdicts do, and while files are written anew.

Prints {"kills", "finished", "requests_lost_max", "in_flight", "scores_equal", "samples_equal", "asked_twice"}, and what
was wrong under "why". finished: evaluations that came to their end. requests_lost_max: the most that the server was
asked between two starts beyond what was kept; in_flight: how many may be under way (`engine.max_sequences`).
asked_twice: requests that came again; where nothing kept is asked again these are the lost ones, over all kills
(requests_lost). scores_equal, samples_equal: results but for their clocks, and files of answers byte by byte. Exit
status 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from killing import H1R, LIMIT_S, comes_to, end, start, wait
from recorded_server import account_of, running

RECIPE = """
name = "eval-kill"
[verify]
workers = 1
[eval]
samples = {samples}
max_tokens = 64
[[eval.benchmarks]]
name = "products"
kind = "jsonl"
path = "products.jsonl"
columns = {{ question = "question", answer = "answer", id = "id" }}
[[eval.benchmarks]]
name = "letters"
kind = "jsonl"
path = "letters.jsonl"
verifier = "choice"
columns = {{ question = "question", answer = "answer", id = "id" }}
options = ["options"]
prompt = "{{question}}\\n\\n{{options}}"
"""
MOST = 6
"""Kills of one evaluation, so that it ends some time."""
CLOCKS = {"seconds"}


@dataclass
class Tally:
    """What came of the evaluations that were killed."""

    in_flight: int
    kills: int = 0
    finished: int = 0
    requests_lost: int = 0
    requests_lost_max: int = 0
    scores_equal: bool = True
    samples_equal: bool = True
    asked_twice: int = 0
    why: list[str] = field(default_factory=list)

    def lost(self, requests: int) -> None:
        """Counts what one start of the command had asked for and not kept."""
        self.requests_lost += requests
        self.requests_lost_max = max(self.requests_lost_max, requests)

    def compare(self, killed: Path, unbroken: Path) -> None:
        """Counts an evaluation that has ended."""
        self.finished += 1
        for name, read in (("scores_equal", scores), ("samples_equal", samples)):
            if not (found := read(killed)) or found != read(unbroken):
                setattr(self, name, False)
                self.why.append(f"{killed.name}: not {name}")

    def numbers(self) -> dict[str, Any]:
        """As they are printed."""
        if self.requests_lost_max > self.in_flight:
            self.why.append("more requests were lost than were under way")
        if self.asked_twice != self.requests_lost:
            self.why.append(f"{self.requests_lost} requests were lost and {self.asked_twice} came again")
        return asdict(self)


def scores(run: Path) -> dict[str, Any]:
    """The results of a run's benchmarks, without what a clock says."""
    found = sorted((run / "eval").rglob("*.json"))
    return {
        path.name: {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key not in CLOCKS}
        for path in found
    }


def samples(run: Path) -> dict[str, bytes]:
    """The files of answers."""
    return {path.name: path.read_bytes() for path in sorted((run / "eval").rglob("*.samples.jsonl"))}


def kept(run: Path) -> int:
    """Answers in a run's files, of which a last line may be half written."""
    lines = (line for content in samples(run).values() for line in content.splitlines(keepends=True))
    return sum(b'"finish_reason": ' in line and line.endswith(b"\n") for line in lines)


def asked(url: str) -> tuple[int, int]:
    """(requests that the server at `url` took on, those that came again), once it has answered them all."""
    before, deadline = None, time.monotonic() + LIMIT_S
    while True:
        account = account_of(url)
        taken = int(account.get("requests", 0) - account.get("reset", 0))
        if taken == account.get("answered", 0) and taken == before:
            return taken, int(account.get("again", 0))
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server at {url} does not answer what it was asked: {account}")
        before = taken
        time.sleep(0.1)


def written(base: Path, problems: int, per_problem: int, draw: random.Random) -> tuple[Path, Path]:
    """(the recipe, what the server replies): of each problem right answers, wrong ones, none, and a long one."""
    replies: dict[str, list[str]] = {}
    rows: dict[str, list[dict[str, Any]]] = {"products": [], "letters": []}
    long = "“ça” → " * 2000
    for n in range(problems):
        one, other = draw.sample(range(100, 1000), 2)
        question, right = f"What is {one} times {other} (problem {n})?", one * other
        rows["products"].append({"id": f"p{n}", "question": question, "answer": str(right)})
        said = [rf"\boxed{{{right}}}", rf"\boxed{{{right + 1}}}", "I do not know.", rf"{long}\boxed{{{right}}}"]
        replies[question] = draw.sample(said, len(said))
        question, letter = f"Which of them is {one} (item {n})?", draw.choice("ABCD")
        options = [str(one + ord(which) - ord(letter)) for which in "ABCD"]
        rows["letters"].append({"id": f"l{n}", "question": question, "answer": letter, "options": options})
        replies[question] = [f"Answer: {which}" for which in draw.sample("ABCD", 4)]
    for name, found in rows.items():
        (base / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    recipe, recorded = base / "eval-kill.toml", base / "replies.json"
    recipe.write_text(RECIPE.format(samples=per_problem), encoding="utf-8")
    recorded.write_text(json.dumps(replies), encoding="utf-8")
    return recipe, recorded


def until_it_ends(
    tally: Tally, command: list[str], run: Path, url: str, kills: int, total: int, draw: random.Random
) -> bool:
    """Starts the command again after each kill, at most `MOST` of them; whether the evaluation came to its end."""
    log, done, (taken, _) = run.with_suffix(".log"), partial(kept, run), asked(url)
    for attempt in range(MOST + 1):
        there = done()
        process = start(command, log)
        try:
            if attempt == MOST or tally.kills >= kills:
                wait(process, done)
            else:
                comes_to(process, done, draw.randint(there, total), draw)
        except subprocess.TimeoutExpired:
            tally.why.append(f"{run.name}: no answer in {LIMIT_S} s")
            return False
        finally:
            end(process)
        before, (taken, again) = taken, asked(url)
        tally.lost(taken - before - (done() - there))
        if process.returncode == -signal.SIGKILL:
            tally.kills += 1
            print(f"{run.name}: killed at {done()} of {total} answers", file=sys.stderr, flush=True)
            continue
        tally.asked_twice += again
        if process.returncode:
            tally.why.append(f"{run.name} ended with {process.returncode}: {log.read_text('utf-8')[-400:]}")
        return not process.returncode
    return False


def measure(
    kills: int, in_flight: int, problems: int, per_problem: int, seconds: float, resets: float, seed: int, base: Path
) -> Tally:
    """Evaluations until so many kills are done, beside one that nobody kills. Each has a server of its own."""
    tally, draw = Tally(in_flight), random.Random(seed)
    recipe, replies = written(base, problems, per_problem, draw)

    def evaluated(name: str, how_many: int) -> Path | None:
        run = base / name
        with running(replies=replies, slots=in_flight, seconds=seconds, resets=resets) as url:
            command = [*H1R, "eval", str(recipe), "--url", url, "--model", "recorded", "--out", str(run)]
            command += ["--set", f"engine.max_sequences={in_flight}", "--set", f"corpus.root={base}"]
            whole = until_it_ends(tally, command, run, url, how_many, 2 * problems * per_problem, draw)
            return run if whole else None

    unbroken = evaluated("unbroken", 0)
    for number in range(kills if unbroken else 0):
        if tally.kills >= kills or tally.why:
            break
        if run := evaluated(f"killed-{number}", kills):
            assert unbroken is not None
            tally.compare(run, unbroken)
            shutil.rmtree(run)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--requests", type=int, default=64, help="under way at a time")
    parser.add_argument("--problems", type=int, default=100, help="of each of the two benchmarks")
    parser.add_argument("--samples", type=int, default=4, help="of each problem")
    parser.add_argument("--seconds", type=float, default=0.2, help="that an answer takes, on the average")
    parser.add_argument("--resets", type=float, default=0.05, help="share of connections that the server breaks")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="h1r-eval-kill-") as place:
        numbers = measure(
            given.kills, given.requests, given.problems, given.samples, given.seconds, given.resets, given.seed,
            Path(place),
        ).numbers()  # fmt: skip
    print(json.dumps(numbers))
    return int(bool(numbers["why"]))


if __name__ == "__main__":
    sys.exit(main())
