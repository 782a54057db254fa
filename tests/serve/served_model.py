"""A model with random weights and a verifier that finds answers in what it writes, and a server around it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import torch
import uvicorn

from h1r.common import plugins
from h1r.config import Recipe
from h1r.data.tokenizer import train_tokenizer, with_chat_format
from h1r.models import build, save
from h1r.models.falcon_h1.config import preset
from h1r.run.directory import Run
from h1r.serve.app import Served, Service
from h1r.serve.gate import Gate
from h1r.serve.limits import Limits
from h1r.serve.logs import RequestLog
from h1r.serve.run import http_config
from h1r.serve.spans import Spans

NAME = "tiny"
KEY = "a-key-for-tests"
QUESTION = "What is 2 + 2?"
LIMITS = Limits(body_bytes=200_000, budget=64, choices=16, requests=64, traces=2048)
RECIPE = Recipe.model_validate(
    {
        "name": NAME,
        "chat": {"system_prompt": ""},
        "engine": {"max_sequences": 16},
        "scaling": {
            "budgets": [12], "warmup": 4, "keep_top": 0.5, "warmup_votes": "all", "window": 4, "top_k": 5,
            "max_tokens": 24, "temperature": 1.0, "top_p": 1.0,
        },
    }
)  # fmt: skip

VERIFIER = '''
from h1r.verify import verifier

def extract(answer):
    """A model of random weights agrees with itself on little more than the size of its first character."""
    return "abc"[ord(answer.strip()[0]) % 3] if answer.strip() else None

@verifier("first-character", answer_form=None, extract=extract, replace=True)
def grade(problem, answer):
    return 0.0
'''


def make_run(folder: Path, sharpen: float = 8.0) -> Path:
    """A run directory whose SFT model has random weights, far from uniform, so that confidences differ."""
    run = Run.open(folder / "run", RECIPE)
    tokenizer = with_chat_format(train_tokenizer([QUESTION, "so it is", "four"], 300), RECIPE.chat)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = build(preset("tiny", **small, **ends), seed=1)
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpen)
    save(model, run.stage("sft") / "model", tokenizer)
    own = folder / "first_character.py"
    own.write_text(VERIFIER, encoding="utf-8")
    plugins.load_plugins([str(own)])
    return run.path


class Running:
    """A server in a thread of this process, on a real socket of loopback."""

    def __init__(
        self, served: Served, limits: Limits, log: RequestLog, key: str | None, spans: Spans | None = None
    ) -> None:
        self.service = Service(served, limits, log, spans)
        self._server = uvicorn.Server(http_config(Gate(self.service.app(), key, ("127.0.0.1",)), Limits(drain_s=0)))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._port}"
        self.client = httpx2.Client(base_url=self.url, timeout=120, headers={"Authorization": f"Bearer {KEY}"})

    async def _serve(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self._port = taken.getsockname()[1]
            await self._server.serve([taken])

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(30)


@contextlib.contextmanager
def running(
    served: Served,
    limits: Limits | None = None,
    log: RequestLog | None = None,
    key: str | None = KEY,
    spans: Spans | None = None,
) -> Iterator[Running]:
    server = Running(served, limits or Limits(), log or RequestLog(quiet=True), key, spans)
    try:
        yield server
    finally:
        server.close()


def eventually(holds, seconds: float = 20.0) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.005)
    return False
