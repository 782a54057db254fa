"""`h1r serve` as a process: its start, its signals, and what it refuses to do."""

from __future__ import annotations

import json
import re
import signal
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from served_model import NAME, QUESTION, eventually

import warm
from h1r.serve.run import Listening, address

ASKED: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "seed": 1}


def started(run: Path, *options: str) -> tuple[warm.Process, str]:
    process = warm.start("serve", run, "--port", 0, *options)

    def url() -> str | None:
        assert process.poll() is None, process.stderr.read_text()
        found = re.search(r"serving .* at (http://\S+)/v1", process.stderr.read_text())
        return found[1] if found else None

    assert eventually(lambda: url() is not None, 60)
    found = url()
    assert found is not None
    return process, found


def test_a_signal_lets_a_short_request_end_and_a_long_one_answer_with_what_it_has(run: Path) -> None:
    process, url = started(run, "--drain-seconds", "0.5")
    assert eventually(lambda: f"open {url}/ to ask it in a browser" in process.stderr.read_text())
    assert httpx2.get(f"{url}/").headers["content-type"].startswith("text/html")
    replies: dict[str, httpx2.Response] = {}

    def ask(name: str, **changes: Any) -> None:
        replies[name] = httpx2.post(f"{url}/v1/chat/completions", json={**ASKED, **changes}, timeout=60)

    endless = {"max_tokens": 4000, "temperature": 5, "n": 16}  # one trace ends after some 280 tokens, by chance
    asks = [
        threading.Thread(target=ask, args=("long",), kwargs=endless),
        threading.Thread(target=ask, args=("stream",), kwargs={**endless, "stream": True}),
        threading.Thread(target=ask, args=("many",), kwargs={**endless, "n": 1, "deepconf": {"budget": 256}}),
    ]
    try:
        for thread in asks:
            thread.start()
        assert eventually(lambda: "h1r_requests_in_progress 3.0" in httpx2.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, process.stderr.read_text()
    finally:
        process.kill()
        for thread in asks:
            thread.join()
    assert {name: reply.status_code for name, reply in replies.items()} == dict.fromkeys(
        ("long", "stream", "many"), 200
    )
    assert replies["stream"].text.endswith("data: [DONE]\n\n")
    assert len(replies["long"].json()["choices"]) == 16
    assert replies["many"].json()["usage"]["deepconf"]["traces"] == 256
    lines = [json.loads(line) for line in process.stderr.read_text().splitlines() if line.startswith("{")]
    assert {line["status"] for line in lines if line["route"] == "/v1/chat/completions"} == {200}
    assert QUESTION not in process.stderr.read_text()


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("a.example", "a.example"),
    ],
)
def test_the_link_to_the_page_is_one_that_this_machine_can_open(host: str, page: str) -> None:
    assert address(Listening(host).host_here, 8000) == f"http://{page}:8000"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "H1R_API_KEY"),
        (["--port", "{taken}"], "cannot be listened on"),
        (["--set", "engine.kind=endpoint"], "url"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(run: Path, options: list[str], said: str) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = warm.run("serve", run, *(one.replace("{taken}", port) for one in options))
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
