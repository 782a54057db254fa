"""SandboxFusion as the place where tested code runs, against a server on loopback that speaks its interface."""

import base64
import contextlib
import json
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from h1r.errors import UserError
from h1r.records import Problem
from h1r.sandbox import Isolation, Limits, SandboxPool, fusion, refusal
from h1r.verify.code.execute import judge
from h1r.verify.code.grade import grade_in
from h1r.verify.code.problem_tests import CallTests, CheckTests, StdinTests
from loopback import http_server

LIMITS = Limits(time_s=10.0)
ACCEPTED = {"code", "language", "stdin", "files", "compile_timeout", "run_timeout", "memory_limit_MB"}


def run_python(request: dict) -> dict:
    """What SandboxFusion does with Python without isolation: files, then the program, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in request["files"].items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(content))
        (Path(folder) / "main.py").write_text(request["code"])
        try:
            run = subprocess.run([sys.executable, "-I", "-S", "main.py"], cwd=folder, input=request["stdin"], text=True,
                                 capture_output=True, timeout=request["run_timeout"], check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            timed_out = {"status": "TimeLimitExceeded", "execution_time": request["run_timeout"], "return_code": None,
                         "stdout": "", "stderr": ""}  # fmt: skip
            return {"status": "Failed", "message": "", "compile_result": None, "run_result": timed_out}
    result = {"status": "Finished", "execution_time": 0.1, "return_code": run.returncode, "stdout": run.stdout,
              "stderr": run.stderr}  # fmt: skip
    status = "Success" if run.returncode == 0 else "Failed"
    return {"status": status, "message": "", "compile_result": None, "run_result": result, "files": {}}


class Server:
    """A server whose next answers can be prepared: (status code, body) or "hang up"; then it runs what it gets."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.prepared: list[tuple[int, bytes] | str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = json.loads(body)
                outer.requests.append(request)
                assert self.path == "/run_code"
                assert set(request) <= ACCEPTED
                answer = outer.prepared.pop(0) if outer.prepared else None
                if answer == "hang up":
                    self.close_connection = True
                    return
                code, content = answer or (200, json.dumps(run_python(request)).encode())
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._open = contextlib.ExitStack()
        self.url = self._open.enter_context(http_server(Handler))

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def servers(monkeypatch):
    monkeypatch.setattr(fusion, "PAUSE_S", 0.01)
    both = [Server(), Server()]
    yield both
    for server in both:
        server.close()


@pytest.fixture
def slot(servers):
    with SandboxPool(url=",".join(server.url for server in servers)) as pool, pool.lease() as slot:
        yield slot


def test_a_program_is_run_by_the_servers_in_turn_and_judged_here(slot, servers):
    tests = StdinTests([(str(number), str(2 * number)) for number in range(4)])
    assert judge(slot, "print(2 * int(input()))", "python", tests, LIMITS).correct
    assert [len(server.requests) for server in servers] == [2, 2]
    assert judge(slot, "print(3 * int(input()))", "python", tests, LIMITS).failures == [(1, "wrong answer", "wrong")]
    assert all("output" not in request and request["stdin"] != "6" for s in servers for request in s.requests)


def test_the_limits_of_a_test_go_along(slot, servers):
    tests = StdinTests([("1", "1")])
    limits = Limits(time_s=0.5, memory_bytes=512 << 20)
    result = judge(slot, "while True: pass", "python", tests, limits)
    assert result.failures == [(0, "time limit exceeded", "time")]
    request = servers[0].requests[0]
    assert (request["run_timeout"], request["memory_limit_MB"], request["language"]) == (0.5, 512, "python")


def test_a_function_is_called_there_and_compared_here(slot, servers):
    calls = CallTests("f", [[(1, 2)], [{3}]], expected=[[1, 2], [3]])
    assert judge(slot, "def f(x): return sorted(x)", "python", calls, LIMITS).correct
    assert not judge(slot, "def f(x): return x", "python", calls, LIMITS).correct
    assert not judge(slot, "raise SystemExit(0)", "python", calls, LIMITS).correct
    assert not judge(slot, "import os; os._exit(0)", "python", calls, LIMITS).correct
    assert not judge(slot, "print({'value': True})", "python", calls, LIMITS).correct


def test_assertions_run_here_and_the_tested_code_there(slot, servers):
    if refusal(Isolation.NAMESPACES) and refusal(Isolation.LANDLOCK):
        pytest.skip("test code cannot be confined here")
    checks = CheckTests(["assert add(1, 2) == 3", "assert add(2, 2) == 4"], ["add"])
    assert judge(slot, "def add(a, b): return a + b", "python", checks, LIMITS).correct
    assert not judge(slot, "def add(a, b): return 3", "python", checks, LIMITS).correct
    assert all("assert" not in json.dumps(request["stdin"]) for server in servers for request in server.requests)


FAILURES = {
    "an error of the server": (500, b"{}"),
    "a refusal": (422, b"{}"),
    "no JSON": (200, b"<html>"),
    "no object": (200, b"[1]"),
    "its own failure": (200, b'{"status": "SandboxError", "message": "no space"}'),
    "no result": (200, b'{"status": "Success", "message": ""}'),
    "a result that failed": (200, b'{"status": "Success", "run_result": {"status": "Error", "return_code": 0}}'),
    "no exit status": (200, b'{"status": "Success", "run_result": {"status": "Finished", "stdout": "1"}}'),
    "a dropped connection": "hang up",
}


@pytest.mark.parametrize("kind", FAILURES)
def test_what_one_server_fails_the_next_one_does(slot, servers, kind):
    servers[0].prepared = [FAILURES[kind]]
    assert judge(slot, "print(input())", "python", StdinTests([("1", "1")] * 3), LIMITS).correct
    assert len(servers[0].requests) == 1, "a server that failed rests"
    assert len(servers[1].requests) == 3


@pytest.mark.parametrize("kind", FAILURES)
def test_no_verdict_is_made_up_when_every_server_fails(servers, kind):
    for server in servers:
        server.prepared = [FAILURES[kind]] * 20
    problem = Problem("p", "", "", "code", metadata={"tests": [{"input": "1", "output": "1"}]})
    with SandboxPool(url=",".join(server.url for server in servers)) as pool:
        verdict = grade_in(pool, problem, "```python\nprint(input())\n```")
    assert verdict.reward == 0.0
    assert "sandbox failed" in verdict.error
    assert verdict.parts == {"isolation:remote": 1.0}


def test_servers_that_nobody_answers_for_fail_closed(monkeypatch):
    monkeypatch.setattr(fusion, "PAUSE_S", 0.01)
    problem = Problem("p", "", "", "code", metadata={"tests": [{"input": "1", "output": "1"}]})
    with SandboxPool(url="http://127.0.0.1:9") as pool:
        assert "does not answer" in grade_in(pool, problem, "```python\nprint(input())\n```").error


def test_code_that_does_not_compile_there_is_wrong(slot, servers):
    compiled = {"status": "Finished", "return_code": 1, "stderr": "error: x", "stdout": ""}
    answer = json.dumps({"status": "Failed", "message": "", "compile_result": compiled, "run_result": None}).encode()
    servers[0].prepared = [(200, answer)]
    result = judge(slot, "int main() { return x; }", "cpp", StdinTests([("", "")]), LIMITS)
    assert result.failures == [(0, "exit status 1: compile error", "crash")]


def test_an_address_that_is_none_is_refused():
    with pytest.raises(UserError, match="H1R_SANDBOX_URL"):
        SandboxPool(url="localhost:8080")
