"""vLLM's own server with our processors, sent whatever somebody likes: it stays up, and answers the others."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_subjects import SECTION, Letters

from h1r.engine.protocol import SamplingParams
from h1r.engine.server.engine import VLLMServer
from h1r.engine.server.events import get_json

pytestmark = pytest.mark.slow
"""The server of the conformance suite takes half a minute to start on a busy machine."""

STREAMS = 200
NUMBERS = (0, -1, 10**9, 2**63 - 1, 1e300, 2.5, "many", [1], {"a": 1}, None)


def hostile() -> list[dict[str, Any]]:
    """`vllm_xargs` that no request may bring."""
    deepconf = {"deepconf_threshold": 1.0}
    ends: list[Any] = [[], [-1], 10**9, [10**9], [2**63 - 1], ["7"], [[7]], list(range(65)), [7] * 10_000]
    return [
        *({"deepconf_threshold": value} for value in ("1", [1.0], 1e308)),
        *({**deepconf, "deepconf_window": value} for value in NUMBERS),
        *({**deepconf, "deepconf_top_k": value} for value in NUMBERS),
        *({**deepconf, "deepconf_end_token_ids": value} for value in ends),
        *({**deepconf, name: 1} for name in ("deepconf_", "deepconf_windows", "deepconf_" + "x" * 100_000)),
        *({"h1r_key": value} for value in ("", "0x5", 2**63, [1], 1e300)),
        *({"h1r_key": "5", "h1r_temperature": value} for value in (-1, "nan", "inf", [1])),
        *({"h1r_key": "5", "h1r_top_k": value} for value in (-1, "many", [1])),
        *({"h1r_key": "5", "h1r_top_p": value} for value in (0, 2, "nan")),
        *({"h1r_key": "5", "h1r_min_p": value} for value in (-1, 2, "nan")),
        *({"h1r_key": "5", "h1r_name": value} for value in (5, "n" * 10_000)),
    ]


@pytest.fixture
def ask(served: str) -> Callable[..., int]:
    """Sends a completion with these `vllm_xargs`; the status, once the whole answer has come."""
    model = get_json(f"{served}/v1/models", timeout=30)["data"][0]["id"]

    def send(extra: dict[str, Any], **more: Any) -> int:
        body = {"model": model, "prompt": [5, 9, 11], "max_tokens": 4, "temperature": 0.0, "vllm_xargs": extra, **more}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{served}/v1/completions", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                reply.read()
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    return send


def memory_bytes(port: str) -> int:
    """Resident memory of all processes in the session of the server at that port."""
    stats = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            stats[folder.name] = fields[3], int(fields[21]) * 4096, (folder / "cmdline").read_bytes()
        except OSError:
            continue
    session = next(s for s, _, line in stats.values() if b"api_server" in line and port.encode() in line)
    return sum(size for s, size, _ in stats.values() if s == session)


def test_hostile_arguments_are_refused_and_the_server_answers_the_next(served: str, ask: Callable[..., int]) -> None:
    engine = VLLMServer(served, Letters(), SECTION)
    params = SamplingParams(max_tokens=8, seed=3)
    before = [trace.token_ids for trace in engine.generate([[5, 9, 11]], params)]
    attacks = hostile()
    assert len(attacks) >= 55
    for extra in attacks:
        assert ask(extra) in (400, 422), extra
    # A token that no vocabulary here has, where it cannot be refused before the worker sees it.
    admitted = {"deepconf_threshold": 100.0, "deepconf_window": 1, "deepconf_end_token_ids": [1 << 20]}
    assert ask(admitted) == 200
    assert [trace.token_ids for trace in engine.generate([[5, 9, 11]], params)] == before


def test_two_hundred_streams_at_once_leave_the_memory_as_it_was(served: str, ask: Callable[..., int]) -> None:
    port = served.rpartition(":")[2]

    def round_of_streams() -> list[int]:
        found: list[int] = []

        def one(i: int) -> None:
            extra: dict[str, Any] = {"h1r_key": str(i), "h1r_name": f"hostile-{i}"} if i % 2 else {}
            extra |= {"deepconf_threshold": 3.0 + i / 100, "deepconf_window": 1 + i % 7, "deepconf_top_k": 1 + i % 20}
            found.append(ask(extra, stream=True, max_tokens=6))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(STREAMS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    assert round_of_streams() == [200] * STREAMS
    before = memory_bytes(port)
    assert round_of_streams() == [200] * STREAMS
    assert memory_bytes(port) - before < 64 << 20
