"""The pieces of a stream: what is written together, and that together they are the text."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from served_model import NAME, QUESTION, Running

from h1r.data.tokenizer import train_tokenizer
from h1r.serve import window
from h1r.serve.reply_text import TokenTexts

TEXTS = ["two and two are four", "naïve café", "数学は楽しい", "🙂🙃 \u200d👩\u200d🚀", "tab\tand\u0000nul\x1b[2J"]


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_bytes_of_tokens_looked_up_are_what_the_tokenizer_decodes(at_once: int) -> None:
    """Of any tokens in any order, so also where bytes make no character."""
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.add_tokens(["<a b>", "ギ"])
    draw = random.Random(at_once)
    texts = TokenTexts(tokenizer)
    for _ in range(200):
        ids = [draw.randrange(len(tokenizer)) for _ in range(40)]
        growing = texts.growing()
        told = "".join(growing.push(ids[at : at + at_once]) for at in range(0, len(ids), at_once))
        whole = tokenizer.decode(ids)
        assert whole.startswith(told)
        assert set(whole[len(told) :]) <= {"\ufffd"}
        assert [texts.one(one) for one in ids] == [tokenizer.decode([one]) for one in ids]


@pytest.mark.parametrize("looked_up", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [("<think>", ""), ("<think>a b é</think>", "\n\nfour"), ("<think></think>", ""), ("", "four"),
     ("<think>a</think>b</think>", "c")],
)  # fmt: skip
def test_tokens_of_thinking_are_counted_up_to_its_end(before: str, after: str, looked_up: bool) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    ids = [*tokenizer.encode(before), *tokenizer.encode(after)]
    texts = TokenTexts(tokenizer if looked_up else SimpleNamespace(decode=tokenizer.decode))
    assert texts.thinking(ids, before + after) == len(tokenizer.encode(before))


def test_tokens_that_follow_soon_are_written_together(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "WINDOW_S", 3600.0)
    asked: dict[str, Any] = {"model": NAME, "prompt": QUESTION, "max_tokens": 24, "seed": 5, "logprobs": 0, "n": 2}
    whole = server.client.post("/v1/completions", json=asked).json()
    with server.client.stream("POST", "/v1/completions", json={**asked, "stream": True}) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line)["choices"][0] for line in lines]
    for choice in whole["choices"]:
        told = [one for one in chunks if one["index"] == choice["index"]]
        assert len([one for one in told if one["text"]]) <= 4  # the first token, up to two ends, and what was held
        assert "".join(one["text"] for one in told) == choice["text"]
        logprobs = [value for one in told if one["logprobs"] for value in one["logprobs"]["token_logprobs"]]
        assert logprobs == choice["logprobs"]["token_logprobs"][: len(logprobs)]
        assert logprobs


def test_a_window_is_longer_where_the_event_loop_takes_more_than_its_share() -> None:
    now = [0.0, 0.0, 0.0]
    one = window.Window(lambda: (now[0], now[1], now[2]))

    def after(computed: float, written: float, seconds: float = 0.1) -> float:
        now[:] = now[0] + seconds, now[1] + written, now[2] + computed
        one.look()
        return one.seconds

    assert after(0.1, 0.05) == window.WINDOW_S  # nothing to compare with
    assert after(0.1, 0.003) == pytest.approx(1.5 * window.WINDOW_S)
    assert after(0.1, 0.05) == pytest.approx(3 * window.WINDOW_S)
    for _ in range(5):
        longest = after(0.1, 0.05)
    assert longest == window.LONGEST_WINDOW_S
    assert after(0.0, 0.05, 60) == window.LONGEST_WINDOW_S  # a pause
    for _ in range(5):
        shortest = after(0.1, 0.001)
    assert shortest == window.WINDOW_S
