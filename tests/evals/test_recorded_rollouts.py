"""Recorded rollouts on AIME, asked for anew through an endpoint that breaks connections, have the recorded scores; and
an evaluation that is killed goes on."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import signal
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chat_server import chat_server, says
from h1r.config import EndpointSection, EngineSection, EvalSection, load_recipe
from h1r.engine.endpoint.engine import EndpointEngine
from h1r.evals.benchmark import evaluate
from h1r.evals.stages import evaluate_stage
from h1r.records import Problem, Verdict
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import Run

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).parents[3] / "shared" / "data"))
AIME = {
    "AIME24": ("aime24", "aime24__openmath-nemotron-1.5b.jsonl.gz", 32),
    "AIME25": ("aime25", "aime25__openmath-nemotron-1.5b.jsonl.gz", 32),
}
RESETS = 0.05


def recorded(name: str) -> tuple[list[dict[str, Any]], dict[str, list[tuple[str, float]]]]:
    """Problems of which there are rollouts, and (completion, reward) of each rollout by the problem's text."""
    folder, file, _ = AIME[name]
    letters = re.compile(r"\W")
    problems = [json.loads(line) for line in (DATA / folder / "test.jsonl").open(encoding="utf-8")]
    rollouts: dict[str, list[tuple[str, float]]] = defaultdict(list)
    with gzip.open(DATA / "areal_rollouts" / file, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            prompt = letters.sub("", row["prompt"])
            plain = {one["problem"]: letters.sub("", one["problem"]) for one in problems}
            (text,) = [one for one, words in plain.items() if words[:60] in prompt or words[-60:] in prompt]
            rollouts[text].append((row["completion"].removesuffix("<|im_end|>"), row["reward"]))
    return [one for one in problems if one["problem"] in rollouts], rollouts


def reset(handler: Any) -> None:
    """Breaks the connection as a server that fell over does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


@pytest.mark.skipif(not DATA.is_dir(), reason="no recorded rollouts here")
def test_recorded_rollouts_have_their_recorded_scores_though_connections_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    replies: dict[str, list[str]] = {}
    scores, text = {}, 'name = "areal"\n[engine]\nkind = "endpoint"\n[engine.endpoint]\nmodel = "m"\n'
    for name, (_, _, samples) in AIME.items():
        problems, rollouts = recorded(name)
        Path(f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in problems), encoding="utf-8")
        replies |= {question: [completion for completion, _ in found] for question, found in rollouts.items()}
        each = [sum(reward for _, reward in found) / samples for found in rollouts.values()]
        scores[name] = sum(each) / len(each)
        text += (
            f'[[eval.benchmarks]]\nname = "{name}"\nkind = "jsonl"\npath = "{name}.jsonl"\nsamples = {samples}\n'
            'columns = { question = "problem", answer = "expected_answer" }\n'
        )
    Path("areal.toml").write_text(text.replace("[engine.endpoint]", 'url = "URL"\n[engine.endpoint]'))
    lock, chance = threading.Lock(), random.Random(0)

    def replay(handler: Any, body: dict[str, Any]) -> None:
        with lock:
            broken = chance.random() < RESETS
            said = "" if broken else replies[body["messages"][-1]["content"]].pop()
        if broken:
            reset(handler)
        else:
            says(said)(handler, body)

    with chat_server(replay) as server:
        recipe = load_recipe("areal.toml", {"engine.url": server.url})
        found = evaluate_stage(recipe, Run.open("run", recipe), "base")["benchmarks"]
    assert {name: one["pass_at_1"] for name, one in found.items()} == pytest.approx(scores, abs=1e-12)
    assert not any(map(len, replies.values()))
    assert len(server.requests) > 220


def exact(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    return [Verdict(float(text == problem.answer)) for problem, text in zip(problems, texts, strict=True)]


def evaluated(path: Path, url: str, problems: list[Problem]) -> list[float]:
    """The accuracy of each repeat, over an endpoint with three requests at a time."""
    section = EngineSection(kind="endpoint", url=url, max_sequences=3, endpoint=EndpointSection(model="m"))
    with closing(EndpointEngine(section)) as engine:
        pipeline = RolloutPipeline(engine, None, exact)
        return evaluate(pipeline, problems, EvalSection(samples=4, max_tokens=9), 0, path=path).per_repeat


def test_a_killed_evaluation_loses_no_more_than_was_on_its_way_and_scores_the_same(tmp_path: Path) -> None:
    problems = [Problem(f"p{n}", f"Take {n} and add four.", str(n + 4), verifier="exact") for n in range(30)]

    def slow(handler: Any, body: dict[str, Any]) -> None:
        time.sleep(0.01)
        number = int(body["messages"][-1]["content"].split()[1])
        says(str(number + 4 + (number % 3 > 0)))(handler, body)

    path = tmp_path / "s.samples.jsonl"
    with chat_server(slow) as server:
        kept = lost = 0
        for after in (20, 50):
            if (child := os.fork()) == 0:
                with contextlib.suppress(BaseException):
                    evaluated(path, server.url, problems)
                os._exit(1)
            while len(server.requests) < kept + lost + after:
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            time.sleep(0.1)  # what the child had sent arrives
            kept = sum(b'"text"' in line for line in path.read_bytes().split(b"\n")[:-1])
            assert 0 <= len(server.requests) - kept - lost <= 3
            lost = len(server.requests) - kept
        assert evaluated(path, server.url, problems) == [pytest.approx(1 / 3)] * 4
    assert len(server.requests) == 120 + lost
