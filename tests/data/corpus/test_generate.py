"""Traces from a teacher: a real HTTP server that counts what it is asked."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from corpora import answer, corpus_recipe, curated, question, trace

from h1r.config import Recipe
from h1r.data.corpus.generate import Endpoint, generate_shard, given_from, read_generated
from h1r.data.corpus.items import Item
from h1r.errors import UserError
from h1r.records import Problem, Sample, read_jsonl

ANSWERS = {question(n): n for n in range(2000)}


class Teacher(ThreadingHTTPServer):
    """Answers the sums of `corpora`; `refuse` times with 429 first, and with `status` for good when it is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.refuse = 0
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refuse > 0 or self.server.status != 200:
            self.server.refuse -= 1
            self.send_response(429 if self.server.status == 200 else self.server.status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(b"no such model")
            return
        asked = body["messages"][-1]["content"]
        self.server.asked[asked] += 1
        self.server.bodies.append({**body, "key": self.headers.get("Authorization"), "path": self.path})
        n = ANSWERS[asked]
        choices: list[dict[str, Any]] = [
            {"message": {"content": trace(n, thinking=f"try {j}")}, "finish_reason": "stop"}
            for j in range(body["n"] - 2)
        ]
        choices.append({"message": {"content": trace(n, said="0"), "reasoning_content": None}, "finish_reason": "stop"})
        choices.append({"message": {"content": None, "reasoning_content": "long"}, "finish_reason": "length"})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": choices}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    with Teacher() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def recipe(server: Teacher, **traces: Any) -> Recipe:
    section = {"by": "endpoint", "url": server.url, "model": "big", "n": 5, "concurrency": 3, **traces}
    return Recipe.model_validate({"name": "t", "chat": {"system_prompt": "S"}, "corpus": {"traces": section}})


def endpoint(found: Recipe) -> Endpoint:
    return Endpoint(found.corpus.traces, found)


def items(count: int) -> list[Item]:
    return [Item(n, Problem(f"p{n}", question(n), answer(n)), "s", "math", "sft") for n in range(count)]


def test_an_endpoint_is_asked_once_a_problem_with_the_settings_of_the_recipe(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    found = dict(endpoint(recipe(teacher, key_variable="SOME_KEY"))([item.problem for item in items(7)]))
    assert sorted(found) == list(range(7))
    assert set(teacher.asked.values()) == {1}
    body = teacher.bodies[0]
    assert (body["n"], body["temperature"], body["top_p"], body["model"]) == (5, 0.6, 0.95, "big")
    assert body["messages"][0] == {"role": "system", "content": "S"}
    assert (body["key"], body["path"]) == ("Bearer secret", "/v1/chat/completions")
    assert found[4][0].answer.thinking == "try 0"
    assert [one.finish_reason for one in found[4]] == ["stop"] * 4 + ["length"]


def test_a_busy_endpoint_is_asked_again(teacher: Teacher) -> None:
    teacher.refuse = 3
    assert len(dict(endpoint(recipe(teacher))([item.problem for item in items(2)]))) == 2


def test_a_refusal_for_good_is_one_sentence(teacher: Teacher) -> None:
    teacher.status = 404
    with pytest.raises(UserError, match=r"answered 404: no such model; check corpus.traces"):
        list(endpoint(recipe(teacher))([items(1)[0].problem]))


def test_no_server_says_how_to_go_on() -> None:
    section = {"by": "endpoint", "url": "http://127.0.0.1:9", "model": "m", "retries": 0}
    found = Recipe.model_validate({"name": "t", "corpus": {"traces": section}})
    with pytest.raises(UserError, match=r"does not answer .* what is done stays"):
        list(endpoint(found)([items(1)[0].problem]))


def test_after_a_kill_no_problem_is_lost_or_asked_twice(teacher: Teacher, tmp_path: Path) -> None:
    path = tmp_path / "generated" / "0.jsonl"
    assert generate_shard(path, items(5), endpoint(recipe(teacher)), 2) == 5
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])  # the last line was being written
    assert generate_shard(path, items(8), endpoint(recipe(teacher)), 3) == 8 - 4
    found = read_generated(path)
    assert sorted(found) == list(range(8))
    assert len(path.read_text().splitlines()) == 8
    assert sorted(teacher.asked.values()) == [1] * 7 + [2], "only the torn one is asked again"


def test_problems_that_have_traces_or_are_for_rl_are_not_asked(teacher: Teacher, tmp_path: Path) -> None:
    three = items(3)
    three[0].use = "rl"
    three[1].traces = [given_from("q", "a", "stop")]
    assert generate_shard(tmp_path / "0.jsonl", three, endpoint(recipe(teacher)), 2) == 1
    assert list(teacher.asked) == [question(2)]


def test_a_curation_teaches_what_the_teacher_got_right(teacher: Teacher, tmp_path: Path) -> None:
    section = {"by": "endpoint", "url": teacher.url, "model": "big", "n": 5}
    found = corpus_recipe(tmp_path, traces=section)
    sums = next(source for source in found.corpus.sources if source.name == "sums")
    (tmp_path / "bare.jsonl").write_text(
        "".join(json.dumps({"question": question(1500 + n), "answer": answer(1500 + n)}) + "\n" for n in range(9))
    )
    columns = {"answer": "answer"}
    bare = sums.model_copy(update={"name": "bare", "path": "bare.jsonl", "group_by": None, "columns": columns})
    section_with = found.corpus.model_copy(update={"sources": [*found.corpus.sources, bare]})
    summary, stage = curated(found.model_copy(update={"corpus": section_with}), tmp_path / "run")
    assert sum(teacher.asked.values()) == 9
    samples = [sample for sample in read_jsonl(stage / "samples.jsonl", Sample) if sample.family == "bare"]
    assert Counter(sample.messages[0].content for sample in samples) == {question(1500 + n): 3 for n in range(9)}
    assert summary["problem_classes"]["bare"] == {"medium": 9}  # three of five were right
