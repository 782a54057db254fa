"""Is DeepConf through `h1r serve` the run of `h1r solve`, trace by trace? Asked on one server, over two servers of ours
behind a third, and with `--vllm` on vLLM's own server with our plugin and sampler.

    python benchmarks/serve_equality.py [RUN] [--questions 8] [--budget 32] [--tau 0.95] [--vllm] [--json]

Every road answers the same questions with the same seeds. Of each the share of traces with the same seed, state, number
of tokens (so the same place at which they were stopped), text, and answer as those of `h1r solve` on the native engine,
and of questions with the same votes and winner. With `--tau` runs end when their traces agree, and which of them have
ended by then is a matter of time where they run in several processes: there traces may be cancelled earlier or later.
`vllm solve` is `h1r solve` on vLLM: what `vllm served` has to equal. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2

from h1r.common.hub import local_directory
from h1r.common.progress import quiet
from h1r.config import Recipe
from h1r.config.text import parse_override
from h1r.evals.answers import open_checkpoint, recipe_of
from h1r.records import Problem, content_id
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import model_directory
from h1r.scaling.answers import extract_for, groups_for
from h1r.scaling.parameters import DeepConf
from h1r.scaling.run import ScalingRun, problem_seed
from h1r.verify import open_backend
from serve_load import free_port

SEED = 11
Found = dict[str, Any]
"""Of one question: `traces`, rows of (seed, state, tokens, text, answer); `votes`; `answer`; `stopping`."""


def questions(count: int) -> list[str]:
    sums = [f"What is {17 + 6 * one} + {40 - 3 * one} - {5 + one}?" for one in range(count)]
    return [f"What is {13 + 7 * one} * {8 + 3 * one}?" if one % 2 else text for one, text in enumerate(sums)]


def solved(run: str, recipe: Recipe, asked: Sequence[str]) -> list[Found]:
    """The run that `h1r solve` makes of each."""
    found = []
    with open_checkpoint(run, recipe) as (engine, tokenizer), open_backend(recipe.verify) as pool:
        pipeline = RolloutPipeline(engine, tokenizer, pool.verify_many)
        for text in asked:
            problem = Problem(content_id(text), text, "")
            deepconf = ScalingRun(
                pipeline.engine, pipeline.prompts([problem]),
                DeepConf.from_section(recipe.scaling, max(recipe.scaling.budgets)),
                seeds=[problem_seed(SEED, problem.id)], extract=extract_for(problem),
                groups=[groups_for(problem, pool.verify_many)],
            )  # fmt: skip
            (one,) = deepconf.solve()
            entries = deepconf.ballots[0].entries
            rows = [(t.seed, s, t.num_tokens, t.text) for t, s in zip(one.traces, one.states, strict=True)]
            answers = [entries[index].answer for index in sorted(entries)]
            traces = [(*row, answer) for row, answer in zip(rows, answers, strict=True)]
            found.append({"traces": traces, "votes": _sixth(one.vote.totals), "answer": one.answer})
    return found


def served(url: str, asked: Sequence[str]) -> list[Found]:
    """The same by requests."""
    found = []
    with httpx2.Client(timeout=600) as http:
        name = http.get(f"{url}/models").json()["data"][0]["id"]
        for text in asked:
            body = {"model": name, "messages": [{"role": "user", "content": text}], "seed": SEED}
            reply = http.post(f"{url}/chat/completions", json={**body, "deepconf": {"return_traces": True}})
            reply.raise_for_status()
            said = reply.json()["usage"]["deepconf"]
            rows = reply.json()["deepconf"]["traces"]
            traces = [tuple(one[name] for name in ("seed", "state", "tokens", "text", "answer")) for one in rows]
            votes = {one["answer"]: one["weight"] for one in said["votes"]}
            found.append({"traces": traces, "votes": votes, "answer": said["answer"], "stopping": said["stopping"]})
    return found


def _sixth(weights: dict[str, float]) -> dict[str, float]:
    return {answer: float(f"{weight:.6g}") for answer, weight in weights.items()}


@contextlib.contextmanager
def server(*what: str) -> Iterator[str]:
    """`h1r serve` in a process of its own: its address, with /v1."""
    command = [sys.executable, "-m", "h1r", "serve", *what, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("serving "):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield line.strip().rpartition(" at ")[2]
                return
        raise SystemExit("".join(said))
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def vllm(checkpoint: Path, log: Path) -> Iterator[str]:
    """vLLM's server on the checkpoint, on a processor: its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--mamba-ssm-cache-dtype", "float32", "--max-model-len", "512",
        "--enforce-eager", "--skip-tokenizer-init", "--kv-cache-memory-bytes", str(1 << 27),
        "--logits-processors", "h1r.engine.vllm.plugin:DeepConf", "h1r.engine.vllm.worker:SeededSampler",
    ]  # fmt: skip
    settings = {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1"}
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=output)
    try:
        for _ in range(480):
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.get(f"http://127.0.0.1:{port}/health")
                break
            if process.poll() is not None:
                raise SystemExit(log.read_text(errors="replace")[-2000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def compared(found: Sequence[Found], expected: Sequence[Found]) -> dict[str, Any]:
    """How much of it is the same."""
    names = ("seed", "state", "tokens", "text", "answer")
    pairs = [
        pair
        for mine, theirs in zip(found, expected, strict=True)
        for pair in zip(mine["traces"], theirs["traces"], strict=False)
    ]
    same = {name: sum(a[k] == b[k] for a, b in pairs) for k, name in enumerate(names)}
    both = list(zip(found, expected, strict=True))
    return {
        "traces": [sum(len(one["traces"]) for one in some) for some in (found, expected)],
        "whole": sum(a == b for a, b in pairs), **same,
        "stopped": sum(row[1] == "stopped" for one in found for row in one["traces"]),
        "votes": sum(mine["votes"] == theirs["votes"] for mine, theirs in both),
        "winner": sum(mine["answer"] == theirs["answer"] for mine, theirs in both),
        "stopping": sorted({one.get("stopping", "engine") for one in found}),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="?", default="h1r:small")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--budget", type=int, default=32)
    parser.add_argument("--tau", type=float)
    parser.add_argument("--vllm", action="store_true")
    parser.add_argument("--json", action="store_true", help="on one line")
    options = parser.parse_args()
    quiet()
    own = recipe_of(options.run).scaling.model_dump(exclude_defaults=True)
    scaling = {**own, "budgets": [options.budget], "tau": "unset" if options.tau is None else options.tau}
    sets = [f"scaling.{key}={value if value == 'unset' else json.dumps(value)}" for key, value in scaling.items()]
    words = [word for one in sets for word in ("--set", one)]
    recipe = recipe_of(options.run, dict(map(parse_override, sets)))
    asked = questions(options.questions)
    expected = solved(options.run, recipe, asked)
    found: dict[str, Any] = {}
    with server(options.run, *words) as one, server(options.run, *words) as two, server(one, two) as front:
        found["served"] = compared(served(one, asked), expected)
        found["served again"] = compared(served(two, asked), expected)
        found["two replicas"] = compared(served(front, asked), expected)
    if options.vllm:
        checkpoint = local_directory(options.run) or model_directory(options.run)
        with tempfile.TemporaryDirectory() as folder, vllm(Path(checkpoint), Path(folder) / "log") as url:
            there = ["engine.kind=server", f"engine.url={json.dumps(url)}"]
            on_vllm = recipe_of(options.run, dict(map(parse_override, [*sets, *there])))
            by_solve = solved(options.run, on_vllm, asked)
            found["vllm solve"] = compared(by_solve, expected)
            with server(options.run, *words, *(word for one in there for word in ("--set", one))) as front:
                found["vllm served"] = compared(served(front, asked), by_solve)
    print(json.dumps({"run": options.run, "questions": options.questions, "budget": options.budget,
                      "tau": options.tau, "roads": found}, indent=None if options.json else 1))  # fmt: skip


if __name__ == "__main__":
    main()
