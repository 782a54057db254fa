"""SandboxFusion servers as the place where tested code runs (github.com/bytedance/SandboxFusion, `POST /run_code`).

    request   {"code", "language", "stdin", "files", "compile_timeout", "run_timeout", "memory_limit_MB"}
    response  {"status": "Success" | "Failed" | "SandboxError", "message", "compile_result", "run_result"}
    result    {"status": "Finished" | "Error" | "TimeLimitExceeded", "return_code", "stdout", "stderr",
               "execution_time"}

Outputs come back as text and are compared here, so expected values stay here too. A function test sends its calls in
batches, each batch one run in a fresh process: functions that remember earlier calls may see fewer of them, and the
time limit holds for a batch together. Test code with assertions runs in this machine's own sandbox, and each of its
calls is a run there; results that are no data cannot be used. How strong the server's isolation is, only its owner
knows.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import itertools
import json
import math
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.sandbox.answer import Answer, whole_answer
from h1r.sandbox.limits import Isolation, Limits
from h1r.sandbox.runner import Sandbox
from h1r.sandbox.session import Ending, RunResult, SandboxError

if TYPE_CHECKING:
    from h1r.sandbox.programs import Program
    from h1r.sandbox.slots import Runnable, Talk

URL_VARIABLE = "H1R_SANDBOX_URL"
"""Environment variable: the address of a server, or several with commas between them."""
LANGUAGES = {
    "python": "python",
    "cpp": "cpp",
    "javascript": "nodejs",
    **{name: name for name in ("go", "java", "rust", "bash", "csharp", "typescript")},
}
COMPILE_TIMEOUT_S = 30.0
MARGIN_S = 30.0
"""What a server may take beyond the limits of a run, for its queue and the network."""
ATTEMPTS = 4
PAUSE_S, REST_S = 0.25, 10.0
"""Between attempts, doubled each time; and how long a server that failed is passed over."""
MAX_RESPONSE_BYTES = 64 << 20

_CALLS = """
import json, sys
sys.path.insert(0, ".")
from h1r.sandbox.inside import serve_lines
serve_lines(json.load(sys.stdin))
"""
_SENT_MODULES = ("inside", "prelude", "served", "values", "structures", "digest", "functions", "untrusted_json")


class FusionServers:
    """One or several servers that take turns, shared by threads. What one does not answer, the next one is asked.

    A run is tried `ATTEMPTS` times, each time at the next server; one that failed rests for REST_S while another is
    left. `SandboxError` when every attempt failed, so that no verdict is made up.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise ValueError("FusionServers needs at least one address")
        self._urls = [url.rstrip("/") + "/run_code" for url in urls]
        self._turn = itertools.count()
        self._rests_until: dict[str, float] = {}

    def run(
        self,
        code: str,
        language: str,
        stdin: str,
        limits: Limits,
        files: dict[str, str] | None = None,
        ends: float = math.inf,
    ) -> RunResult:
        """One run. `ending` "failed" stands for code that did not compile, its messages in `stderr`.

        No attempt outlasts `ends`, by `time.monotonic`; then `ending` is "time".

        `ValueError` for a language that the servers do not know.
        """
        if language not in LANGUAGES:
            raise ValueError(f"{language} cannot be run by a SandboxFusion server")
        request = {
            "code": code,
            "language": LANGUAGES[language],
            "stdin": stdin,
            "files": files or {},
            "compile_timeout": COMPILE_TIMEOUT_S,
            "run_timeout": limits.time_s,
            "memory_limit_MB": limits.memory_bytes >> 20,
        }
        body, why = json.dumps(request).encode(), ""
        for attempt in range(ATTEMPTS):
            if (left_s := ends - time.monotonic()) <= 0:
                return RunResult("time", 1, b"", b"", 0.0, 0)
            url = self._next()
            try:
                longest_s = min(limits.time_s + COMPILE_TIMEOUT_S + MARGIN_S, left_s)
                return _result(_post(url, body, longest_s), limits)
            except SandboxError as error:
                why = f"{url} {error}"
                self._rests_until[url] = time.monotonic() + REST_S
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE_S * 2**attempt)
        raise SandboxError(f"{ATTEMPTS} attempts failed; the last: {why}")

    def _next(self) -> str:
        """The server whose turn it is, of those that do not rest, or of all."""
        now = time.monotonic()
        awake = [url for url in self._urls if self._rests_until.get(url, 0.0) <= now] or self._urls
        return awake[next(self._turn) % len(awake)]


def _post(url: str, body: bytes, limit_s: float) -> dict[str, Any]:
    message = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(message, timeout=limit_s) as response:
            answer = json.loads(response.read(MAX_RESPONSE_BYTES))
    except urllib.error.HTTPError as error:
        raise SandboxError(f"answered {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException, RecursionError) as error:
        raise SandboxError(f"does not answer: {error}") from None
    if not isinstance(answer, dict):
        raise SandboxError("answered no object")
    return answer


def _result(response: dict[str, Any], limits: Limits) -> RunResult:
    """What a response says of the run; `SandboxError` when it says that the server failed, or nothing."""
    compiled, ran = response.get("compile_result"), response.get("run_result")
    if response.get("status") not in ("Success", "Failed"):
        raise SandboxError(f"says {str(response.get('message'))[:300]!r}")
    if ran is None and isinstance(compiled, dict):
        return RunResult("failed", 1, b"", str(compiled.get("stderr")).encode(errors="replace"), 0.0, 0)
    if not isinstance(ran, dict) or ran.get("status") not in ("Finished", "TimeLimitExceeded"):
        raise SandboxError("gave no result of the run")
    return _outcome(ran, limits)


def _outcome(result: dict[str, Any], limits: Limits) -> RunResult:
    stdout, stderr = (str(result.get(key) or "").encode(errors="surrogatepass") for key in ("stdout", "stderr"))
    seconds, status = result.get("execution_time"), result.get("return_code")
    ending: Ending = "finished"
    if result.get("status") == "TimeLimitExceeded":
        ending = "time"
    elif not isinstance(status, int):
        raise SandboxError("gave no exit status")
    elif len(stdout) > limits.output_bytes:
        ending = "output"
    return RunResult(
        ending,
        status if isinstance(status, int) else 1,
        stdout[: limits.output_bytes],
        stderr[: limits.output_bytes],
        took_s := float(seconds) if isinstance(seconds, (int, float)) else 0.0,
        0,
        took_s,
    )


@dataclass(slots=True)
class _Budget:
    """What is left of an answer: seconds that its runs may take together, and when the whole of it ends."""

    left_s: float = math.inf
    ends: float = math.inf

    def run(
        self, servers: FusionServers, code: str, language: str, stdin: str, limits: Limits, files: Any = None
    ) -> RunResult:
        """`FusionServers.run` within the budget; it ends for "time" when that is spent."""
        if self.left_s <= 0:
            return RunResult("time", 1, b"", b"", 0.0, 0)
        limits = dataclasses.replace(limits, time_s=min(limits.time_s, self.left_s))
        outcome = servers.run(code, language, stdin, limits, files, self.ends)
        self.left_s -= outcome.spent_s
        return outcome


@dataclass(slots=True)
class _RemoteProgram:
    servers: FusionServers
    code: str
    language: str
    budget: _Budget
    error: str | None = None
    ending: Ending = "finished"

    def run(self, stdin: bytes, limits: Limits) -> RunResult:
        text = stdin.decode(errors="replace")
        outcome = self.budget.run(self.servers, self.code, self.language, text, limits)
        if outcome.ending == "failed":
            return RunResult("finished", outcome.status or 1, b"", b"compile error", 0.0, 0)
        return outcome


class _RemoteCalls:
    """Calls that wait are sent together when a reply is asked for."""

    def __init__(self, servers: FusionServers, job: dict[str, Any], limits: Limits, budget: _Budget) -> None:
        self._servers = servers
        self._budget = budget
        self.spent_s = 0.0
        self.waited_s = 0.0  # which servers do not say
        self._job = job
        self._limits = limits
        self._waiting: list[dict[str, Any]] = []
        self._replies: list[dict[str, Any]] = [{"value": True}]  # code that does not load says so at its first call
        self._ended: Ending | None = None

    def send(self, message: dict[str, Any]) -> None:
        self._waiting.append(message)

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any] | None, Ending]:
        self.send({**message, "objects": False})
        return self.receive()

    def receive(self, limit_s: float | None = None) -> tuple[dict[str, Any] | None, Ending]:
        if not self._replies and self._ended is None:
            self._run()
        if self._replies:
            return self._replies.pop(0), "finished"
        return None, self._ended or "failed"

    def _run(self) -> None:
        mark = secrets.token_hex(16)
        calls, self._waiting = self._waiting, []
        request = {
            "mark": mark,
            "messages": calls,
            "code": self._job["code"],
            "prelude": self._job.get("prelude", False),
        }
        time_s = min(self._limits.time_s * max(len(calls), 1), self._limits.total_s)
        limits = Limits(time_s=time_s, memory_bytes=self._limits.memory_bytes, output_bytes=self._limits.output_bytes)
        outcome = self._budget.run(self._servers, _CALLS, "python", json.dumps(request), limits, _harness())
        self.spent_s += outcome.spent_s
        lines = [
            line[len(mark) + 1 :]
            for line in outcome.stdout.decode(errors="replace").splitlines()
            if line.startswith(mark)
        ]
        replies = [_read_reply(line) for line in lines[: len(calls) + 1]]
        if replies and "raised" in replies[0]:
            replies = replies[:1] * (len(calls) + 1)
        self._replies = replies[1:]
        if len(self._replies) < len(calls):
            self._ended = "failed" if outcome.ending == "finished" else outcome.ending


def _read_reply(line: str) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    return reply if isinstance(reply, dict) else {"raised": "no reply", "text": ""}


def _harness() -> dict[str, str]:
    here = Path(__file__).resolve().parent
    sent = {f"h1r/sandbox/{name}.py": (here / f"{name}.py").read_bytes() for name in _SENT_MODULES}
    return {path: base64.b64encode(content).decode() for path, content in sent.items()}


class FusionSlot:
    """A `Slot` whose tested code runs on the servers; `level` names the local one for test code with assertions."""

    def __init__(self, servers: FusionServers, level: str | None = None) -> None:
        self.level = Isolation.REMOTE
        self._servers = servers
        self._local_level = level
        self._checker: Sandbox | None = None
        self._budget = _Budget()
        self.waited_s = 0.0

    @contextlib.contextmanager
    def answer(self, limits: Limits) -> Iterator[Answer]:
        """The block is one answer: no request outlasts `answer_s`, and its runs take `total_s` by the servers' word."""
        self._budget = _Budget(limits.total_s, time.monotonic() + limits.answer_wall_s)
        try:
            with whole_answer((self,), limits.answer_wall_s, limits.total_s) as answer:
                yield answer
        finally:
            self._budget = _Budget()

    def begin_answer(self, total_s: float) -> None:
        if self._checker is not None:
            self._checker.begin_answer(total_s)

    def end_answer(self) -> None:
        if self._checker is not None:
            self._checker.end_answer()

    def stop_answer(self, force: bool) -> None:
        if self._checker is not None:
            self._checker.stop_answer(force)

    @contextlib.contextmanager
    def program(self, code: str, language: str, limits: Limits) -> Iterator[Runnable]:
        yield _RemoteProgram(self._servers, code, language, self._budget)

    @contextlib.contextmanager
    def calls(self, job: dict[str, Any], limits: Limits) -> Iterator[Talk]:
        yield _RemoteCalls(self._servers, job, limits, self._budget)

    def checks(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]:
        return self._local(limits).open(job, limits)

    def referee(
        self, code: str, language: str, limits: Limits, included: dict[str, str]
    ) -> AbstractContextManager[Program]:
        from h1r.sandbox.programs import prepare

        return prepare(self._local(limits), code, language, limits, included)

    def _local(self, limits: Limits) -> Sandbox:
        if self._checker is None:
            from h1r.sandbox.levels import choose_level

            self._checker = Sandbox(choose_level(self._local_level))
            self._checker.begin_answer(limits.total_s)
        return self._checker

    def close(self) -> None:
        if self._checker is not None:
            self._checker.close()
