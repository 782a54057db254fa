"""Is the memory of an evaluation flat in the number of its samples? The road of `h1r eval` (samples.jsonl, verdicts,
scores, votes at budgets, the page of answers) over answers that a stand-in engine makes up as they are asked for, in
processes of their own for each number of answers; prints JSON.

    python benchmarks/eval_memory.py [--answers 10000 100000 1000000] [--problems 1000] [--method majority]

start_rss_mib, peak_rss_mib: the process's high-water mark before the first answer, and at the end. resume_*: of a
second process that finds all answers in the file, as after a kill at the very end. page_*: of a third one, which writes
the page of answers. file_mib: of samples.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from h1r.common.memory import peak_rss_bytes
from h1r.common.progress import quiet
from h1r.config import EvalSection, ScalingSection
from h1r.engine.protocol import SamplingParams
from h1r.evals.benchmark import evaluate
from h1r.records import Problem, Trace, Verdict
from h1r.report.samples import AnswerSet, write_browser
from h1r.rollout.pipeline import RolloutPipeline

ANSWERS = ("12", "13", "14", "a longer answer")


class StandIn:
    """Answers a function of the seed, with token ids and confidences, each made when it is taken."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def stream(self, prompts: Sequence[object], params: Sequence[SamplingParams]) -> Iterator[Trace]:
        for index, one in enumerate(params):
            for sample in range(one.n):
                drawn = random.Random(one.seed + sample)
                said = rf"<think>so it is, or so it seems</think> \boxed{{{drawn.choice(ANSWERS)}}}"
                sure = [drawn.uniform(1.0, 20.0)] * self._tokens
                yield Trace(
                    index, sample, list(range(self._tokens)), said, [], [], sure, "stop", seed=one.seed + sample
                )


def verify_many(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """A verifier that takes no time."""
    read = [text.rpartition("{")[2].rstrip("}") for text in texts]
    return [Verdict(float(a == p.answer), extracted=a) for p, a in zip(problems, read, strict=True)]


def one_run(path: Path, answers: int, problems: int, tokens: int, method: str) -> dict[str, float]:
    """Evaluates, or goes on with what lies at `path`."""
    n = max(2, answers // problems)
    asked = [Problem(f"p{i}", f"What is {i} times one, and why?", "12", verifier="exact") for i in range(problems)]
    before, started = peak_rss_bytes(), time.monotonic()
    pipeline = RolloutPipeline(StandIn(tokens), None, verify_many)  # type: ignore[arg-type]
    scaling = ScalingSection(method=method, budgets=[n], warmup=max(2, n // 2), window=8)
    result = evaluate(pipeline, asked, EvalSection(samples=n), 0, path=path, scaling=scaling)
    assert result.budgets is not None
    return {
        "answers": n * problems,
        "pass_at_1": result.pass_at_1,
        "majority": result.budgets["rows"][-1]["majority"]["accuracy"],
        "seconds": round(time.monotonic() - started, 1),
        "start_rss_mib": round(before / 2**20),
        "peak_rss_mib": round(peak_rss_bytes() / 2**20),
        "file_mib": round(path.stat().st_size / 2**20, 1),
    }


def one_page(path: Path) -> dict[str, float]:
    """Writes the page of the answers at `path`."""
    before, started = peak_rss_bytes(), time.monotonic()
    one = AnswerSet("made up", "stand-in", path)
    write_browser(path.parent / "samples.html", path.parent / "report.html", "memory", [one])
    return {
        "seconds": round(time.monotonic() - started, 1),
        "start_rss_mib": round(before / 2**20),
        "peak_rss_mib": round(peak_rss_bytes() / 2**20),
    }


def measured(answers: int, problems: int, tokens: int, method: str) -> dict[str, float]:
    """Three processes: the second resumes, the third writes the page."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "samples.jsonl"
        command = [
            sys.executable,
            __file__,
            "--path",
            str(path),
            "--answers",
            str(answers),
            "--problems",
            str(problems),
        ]
        command += ["--tokens", str(tokens), "--method", method]
        first, second, page = (
            json.loads(subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True).stdout)
            for more in ([], [], ["--page"])
        )
    assert first["pass_at_1"] == second["pass_at_1"]
    return {
        **first,
        "resume_seconds": second["seconds"],
        "resume_peak_rss_mib": second["peak_rss_mib"],
        **{f"page_{key}": value for key, value in page.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--method", default="deepconf")
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--page", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet()
    if given.page:
        print(json.dumps(one_page(given.path)))
    elif given.path:
        print(json.dumps(one_run(given.path, given.answers[0], given.problems, given.tokens, given.method)))
    else:
        for count in given.answers:
            print(json.dumps(measured(count, given.problems, given.tokens, given.method)), flush=True)
