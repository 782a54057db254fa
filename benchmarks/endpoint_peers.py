"""One recorded server, three evaluators: `engine.kind = "endpoint"`, lm_eval and inspect_ai ask the same questions with
as many requests at a time, in turns, each in a process of its own; prints JSON.

    python benchmarks/endpoint_peers.py [--problems 2500] [--samples 4] [--slots 64] [--seconds 0.25] [--rounds 3]

busy: share of the slots' time, from the first request to the last answer, in which they answered. answers_per_s: from
the first request on, so that nobody's imports count. cpu_ms: processor time of an answer, with what comes before and
after. peak_rss_mib: of the process. Medians over the rounds. An evaluator that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recorded_server import account_of, running

EVALUATORS = {"h1r": "h1r", "lm_eval": "lm_eval", "inspect_ai": "inspect_ai"}
"""Its name here, and the package that it needs."""
TASK = """
task: recorded
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: generate_until
test_split: test
repeats: %d
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_gen_toks: 64, do_sample: true, temperature: 1.0}
filter_list:
  - name: boxed
    filter: [{function: regex, regex_pattern: "boxed\\\\{(.*?)\\\\}"}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def questions(count: int) -> list[str]:
    return [f"What is {number} times one?" for number in range(count)]


def ask_by_h1r(url: str, problems: int, samples: int, at_once: int, folder: Path) -> float:
    """Runs the evaluation; the mean score, which every evaluator must find to be 1."""
    from h1r.config import EndpointSection, EngineSection, EvalSection
    from h1r.engine.endpoint.engine import EndpointEngine
    from h1r.evals.benchmark import evaluate
    from h1r.records import Problem
    from h1r.rollout.pipeline import RolloutPipeline
    from h1r.verify import VerifierPool

    asked = [Problem(f"p{n}", text, "1", verifier="math") for n, text in enumerate(questions(problems))]
    section = EngineSection(kind="endpoint", url=url, max_sequences=at_once, endpoint=EndpointSection(model="recorded"))
    with VerifierPool() as pool:
        engine = EndpointEngine(section)
        pipeline = RolloutPipeline(engine, None, pool.verify_many)
        found = evaluate(pipeline, asked, EvalSection(samples=samples, max_tokens=64), 0, path=folder / "samples.jsonl")
        engine.close()
    return float(found.pass_at_1)


def ask_by_lm_eval(url: str, problems: int, samples: int, at_once: int, folder: Path) -> float:
    """See `ask_by_h1r`."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    data = folder / "questions.jsonl"
    rows = [json.dumps({"question": text, "answer": "1"}) for text in questions(problems)]
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "recorded.yaml").write_text(TASK % (data, samples), encoding="utf-8")
    arguments = (
        f"model=recorded,base_url={url}/chat/completions,num_concurrent={at_once},tokenizer_backend=None,"
        "tokenized_requests=False,max_retries=3"
    )
    found = lm_eval.simple_evaluate(
        model="local-chat-completions", model_args=arguments, tasks=["recorded"], apply_chat_template=True,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0,
    )  # fmt: skip
    return float(found["results"]["recorded"]["exact_match,boxed"])


def ask_by_inspect_ai(url: str, problems: int, samples: int, at_once: int, folder: Path) -> float:
    """See `ask_by_h1r`."""
    import inspect_ai
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    os.environ |= {"RECORDED_BASE_URL": url, "RECORDED_API_KEY": "none"}
    task = inspect_ai.Task(
        [Sample(text, target="1") for text in questions(problems)],
        solver=generate(), scorer=match(location="any"), epochs=samples,
    )  # fmt: skip
    (log,) = inspect_ai.eval(
        task, model="openai-api/recorded/recorded", max_connections=at_once, max_samples=at_once, max_tokens=64,
        display="none", log_dir=str(folder / "logs"),
    )  # fmt: skip
    assert log.results is not None
    return float(log.results.scores[0].metrics["accuracy"].value)


def run(name: str, url: str, problems: int, samples: int, at_once: int) -> None:
    """In a process of its own: asks, and prints the score and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        ask = {"h1r": ask_by_h1r, "lm_eval": ask_by_lm_eval, "inspect_ai": ask_by_inspect_ai}[name]
        score = ask(url, problems, samples, at_once, Path(folder))
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(part.ru_utime + part.ru_stime for part in parts)
    print(json.dumps({"score": score, "cpu": cpu, "peak_rss_mib": round(parts[0].ru_maxrss / 1024)}))


def measure(name: str, problems: int, samples: int, slots: int, seconds: float) -> dict[str, float]:
    """One evaluation against a server of its own."""
    with running(slots=slots, seconds=seconds) as url:
        asked = [name, url, *map(str, (problems, samples, slots))]
        began = time.monotonic()
        done = subprocess.run([sys.executable, __file__, "--one", *asked], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        whole = time.monotonic() - began
        account = account_of(url)
    found, total = json.loads(done.stdout.strip().splitlines()[-1]), problems * samples
    span = account["last"] - account["first"]
    return {
        "answers": int(account["answered"]),
        "score": found["score"],
        "busy": account["slot_seconds"] / slots / span,
        "answers_per_s": account["answered"] / span,
        "whole_s": whole,
        "cpu_ms": 1000 * found["cpu"] / total,
        "peak_rss_mib": found["peak_rss_mib"],
    }


def compare(problems: int, samples: int, slots: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Medians of each evaluator that is installed, by name."""
    there = [name for name, package in EVALUATORS.items() if importlib.util.find_spec(package)]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for _ in range(rounds):
        for name in there:
            taken[name].append(measure(name, problems, samples, slots, seconds))
    rows = {
        name: {key: round(statistics.median(one[key] for one in found), 4) for key in found[0]}
        for name, found in taken.items()
    }
    missing = [name for name in EVALUATORS if name not in there]
    return {"slots": slots, "seconds_an_answer": seconds, "rounds": rounds, **rows, "not_installed": missing}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        evaluator, address, *numbers = sys.argv[2:]
        run(evaluator, address, *map(int, numbers))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--problems", type=int, default=2500)
        parser.add_argument("--samples", type=int, default=4)
        parser.add_argument("--slots", type=int, default=64)
        parser.add_argument("--seconds", type=float, default=0.25)
        parser.add_argument("--rounds", type=int, default=3)
        print(json.dumps(compare(**vars(parser.parse_args())), indent=1))
