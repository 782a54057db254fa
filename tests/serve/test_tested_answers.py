"""A request that carries tests: each trace's program is run against them, and the reply is one that passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import scripted
from served_model import Running
from test_urls import BODY, ask, before

RIGHT, WRONG, HALF = "return n * n", "return n + n", "return n * n if n < 3 else 0"
TESTS = ["assert square(1) == 1", "assert square(2) == 4", "assert square(5) == 25"]


def program(body: str, ahead: float) -> list[tuple[str, float]]:
    words = ["<think>", *[f" step{number}" for number in range(8)], "</think>", "```python\n"]
    return [(word, ahead) for word in [*words, "def square(n):\n", f"    {body}\n", "```"]]


def few_are_right(seed: int) -> list[tuple[str, float]]:
    """Most traces agree on the wrong program, and are the surer ones."""
    return program(RIGHT, 4.0) if seed % 4 == 0 else program(WRONG, 5.0)


def none_is_right(seed: int) -> list[tuple[str, float]]:
    return program(HALF, 4.0) if seed % 4 == 0 else program(WRONG, 5.0)


@pytest.fixture(params=[few_are_right, none_is_right], ids=lambda one: one.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Running]]:
    with scripted(writes=request.param) as one, before(one, **{"scaling.keep_top": 0.9}) as found:
        yield request.param, found


def test_the_reply_is_a_program_that_passes_most_tests_however_few_do(server: tuple[Any, Running]) -> None:
    writes, found = server
    reply = ask(found, deepconf={"budget": 24, "return_traces": True, "tests": TESTS})
    said, traces = reply["usage"]["deepconf"], reply["deepconf"]["traces"]
    body, share = (RIGHT, 1.0) if writes is few_are_right else (HALF, 2 / 3)
    assert body in reply["choices"][0]["message"]["content"]
    assert (said["selected_by"], said["tests"]) == ("tests", 3)
    assert said["tests_passed"] == pytest.approx(share, abs=1e-5)
    assert said["answer"] == ("passes 3 tests" if writes is few_are_right else None)
    for trace in traces:
        if trace["finish_reason"] == "stop":
            expected = share if body in trace["text"] else 0.0 if "n + n" not in trace["text"] else 1 / 3
            assert trace["tests_passed"] == pytest.approx(expected, abs=1e-5)
    by_confidence = ask(found, deepconf={"budget": 24, "select": "confidence"})
    assert WRONG in by_confidence["choices"][0]["message"]["content"]


def test_one_that_passes_ends_the_run_and_programs_may_read_their_input(tmp_path: Path) -> None:
    def reads(seed: int) -> list[tuple[str, float]]:
        return [(word, 4.0) for word in ("```python\n", "n = int(input())\n", "print(n * n", ")\n", "```")]

    tests = [{"input": "3\n", "output": "9\n"}, {"input": "4\n", "output": "16\n"}]
    with scripted(writes=reads) as one, before(one) as server:
        said = ask(server, deepconf={"budget": 24, "tau": 0.95, "tests": tests})["usage"]["deepconf"]
        assert (said["traces"], said["stop_reason"], said["tests_passed"]) == (6, "warmup consensus", 1.0)
        hostile = f"import pathlib\npathlib.Path({str(tmp_path / 'escaped')!r}).touch()\nassert square(1) == 1"
        reply = ask(server, deepconf={"budget": 6, "tests": [hostile]})
        assert reply["usage"]["deepconf"]["tests_passed"] == 0
        assert not list(tmp_path.iterdir())


def test_tests_that_never_reach_the_program_are_an_error_and_no_score() -> None:
    with scripted(writes=few_are_right) as one, before(one) as server:
        tests = ["if False:\n    assert square(1) == 1"]
        body = {**BODY, "deepconf": {"budget": 6, "tests": tests}}
        response = server.client.post("/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "tests_failed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tests": []}, "a list of 1 to 64"),
        ({"tests": ["x"] * 65}, "a list of 1 to 64"),
        ({"tests": "assert f(1)"}, "a list of 1 to 64"),
        ({"tests": [{"input": "1"}]}, "pieces of Python"),
        ({"tests": ["assert f(1)", {"input": "1", "output": "2"}]}, "pieces of Python"),
        ({"tests": [7]}, "pieces of Python"),
        ({"tests": ["assert f(" + "1," * 20_000 + ")"]}, "32768 bytes"),
        ({"tests": ["assert True"]}, "call nothing"),
        ({"tests": ["def ("]}, "no known form"),
        ({"tests": ["(" * 5_000]}, "no known form"),
        ({"tests": ["assert f('\ud800') == 1"]}, "surrogate"),
        ({"select": "tests"}, "tests is missing"),
        ({"tests": ["assert f(1)"], "select": "votes"}, 'select "tests"'),
        ({"tests": ["assert f(1)"], "verifier": "math"}, "verifier"),
    ],
)
def test_tests_that_are_none_are_refused_before_a_trace_begins(options: dict[str, Any], said: str) -> None:
    from h1r.config import resolve
    from h1r.engine.protocol import SamplingParams
    from h1r.serve.errors import ApiError
    from h1r.serve.options import plan_for

    section = resolve({"name": "defaults"}, {}, "test").scaling
    with pytest.raises(ApiError, match=re.escape(said)) as refused:
        plan_for(section, 64, SamplingParams(), {"budget": 24, **options}, (None, None), None)
    assert refused.value.status == 400
