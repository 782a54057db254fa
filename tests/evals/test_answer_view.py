"""What `h1r generate` and `h1r solve` show on a terminal, read from the terminal's other end as it is written."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from h1r.cli import main
from h1r.config import ChatSection
from h1r.data.tokenizer import train_tokenizer, with_chat_format
from h1r.engine.protocol import Running, SamplingParams
from h1r.records import FinishReason, Trace
from small_checkpoint import small_checkpoint

TEXT = "12 + 30 = 42 ✓ \x1b[2J42 - 7 = 35"
SHOWN = TEXT.replace("\x1b", r"\x1b")
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A pseudo-terminal for standard output and error, and what has arrived there."""

    def __init__(self) -> None:
        self._ours, its = pty.openpty()
        self._streams = [open(its, "w", encoding="utf-8"), open(os.dup(its), "w", encoding="utf-8")]  # noqa: SIM115
        self._arrived, self._marks, self._more = b"", 0, threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):  # the other end was closed
            while found := os.read(self._ours, 1 << 16):
                with self._more:
                    self._arrived += found
                    self._more.notify()

    def main(self, *words: object) -> int:
        """`h1r` on it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TERM", "xterm")
            for name, stream in zip(("stdout", "stderr"), self._streams, strict=True):
                patch.setattr(sys, name, stream)
            try:
                return main([str(word) for word in words])
            except SystemExit as end:
                return int(end.code or 0)

    @property
    def raw(self) -> str:
        """All that was written until now."""
        self._marks += 1
        mark = f"\x1b[{self._marks}q"
        for stream in self._streams:
            stream.flush()
        self._streams[0].write(mark)
        self._streams[0].flush()
        with self._more:
            assert self._more.wait_for(lambda: mark.encode() in self._arrived, 20)
            return self._arrived.decode()

    @property
    def text(self) -> str:
        """Without what moves the cursor."""
        return CONTROLS.sub("", self.raw)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    found = Terminal()
    yield found
    found.close()


class StandIn:
    """Writes TEXT in every trace, the last prompt first, a token at a time. seen: the terminal between two tokens."""

    def __init__(self, tokenizer: Any, terminal: Terminal, fails: int = 0, stops: bool = False) -> None:
        self.tokenizer, self.terminal, self.fails, self.stops = tokenizer, terminal, fails, stops
        self.ids = tokenizer.encode(TEXT, add_special_tokens=False)
        self.seen: list[str] = []
        self._look: Any = None
        self._now, self._count = 0, 0

    def stream(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> Iterator[Trace]:
        ends: Sequence[tuple[int, FinishReason]]
        for self._now in reversed(range(len(prompts))):
            ends = [(4, "error")] if self._now == 0 and self.fails > 0 else [(len(self.ids), "stop")]
            self.fails -= self._now == 0
            for count, reason in ends:
                for self._count in range(1, count):
                    if self._look is not None:
                        self._look()
                    self.seen.append(self.terminal.text)
                if self.stops:
                    raise KeyboardInterrupt
                ids = self.ids if reason == "stop" else []
                text = self.tokenizer.decode(ids)
                yield Trace(self._now, 0, ids, text, [], [], [], reason, error="broke" if reason == "error" else None)

    def watch(self, look: Any) -> None:
        self._look = look

    def progress(self) -> list[Running]:
        return [Running(self._now, 0, self._count, None)]

    def written(self, prompt_index: int, sample_index: int, first: int = 0) -> list[int]:
        assert (prompt_index, sample_index) == (self._now, 0)
        return list(self.ids[first : self._count])


@pytest.fixture
def tokenizer() -> Any:
    return with_chat_format(train_tokenizer(["12 + 30 = 42"], 280), ChatSection(system_prompt=""))


def asked(monkeypatch: pytest.MonkeyPatch, engine: StandIn, *words: str) -> int:
    """`h1r generate` of a checkpoint that is this engine."""

    @contextmanager
    def opened(*_: object) -> Iterator[tuple[StandIn, Any]]:
        yield engine, engine.tokenizer

    monkeypatch.setattr("h1r.evals.answers.open_checkpoint", opened)
    monkeypatch.setattr("h1r.rollout.retry.time.sleep", lambda _: None)
    return engine.terminal.main("generate", "h1r:small", *words)


@pytest.mark.parametrize("fails", [False, True], ids=["at once", "after a failure"])
def test_one_answer_appears_token_by_token(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, tokenizer: Any, fails: bool
) -> None:
    engine = StandIn(tokenizer, terminal, int(fails))
    assert asked(monkeypatch, engine, "-p", "What is 12 + 30 - 7?") == 0
    assert engine.seen[0].startswith("loading h1r:small\n")
    failed = 3 if fails else 0
    for count, seen in enumerate(engine.seen[failed:], 1):
        whole = tokenizer.decode(engine.ids[: max(count, failed)]).rstrip("\ufffd")
        assert seen.endswith(whole.replace("\x1b", r"\x1b")), (count, seen)
    assert terminal.text.endswith(f"{SHOWN}\n[{len(engine.ids)} tokens, ended by stop]\n")
    assert terminal.text.count("12 + 30") == 1
    assert "\x1b[2J" not in terminal.raw


def test_several_answers_appear_as_each_ends_and_ctrl_c_prints_none_twice(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, tokenizer: Any
) -> None:
    engine = StandIn(tokenizer, terminal)
    assert asked(monkeypatch, engine, "-p", "one", "-p", "two") == 0
    steps = len(engine.ids) - 1
    assert "---" not in engine.seen[steps - 1]
    assert "--- question 2, trace 1 ---\n12 + 30" in engine.seen[steps]
    text = terminal.text
    assert (text.count("--- question 1"), text.count("--- question 2"), text.count("tokens, ended by")) == (1, 1, 2)
    engine.stops = True
    assert asked(monkeypatch, engine, "-p", "one") == 130
    assert terminal.text.removeprefix(text).endswith("\nh1r: stopped; 0 of 1 traces had ended; run it again for all\n")


def test_what_has_ended_is_kept_where_the_engine_gives_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: Terminal, tokenizer: Any
) -> None:
    engine = StandIn(tokenizer, terminal, fails=99)
    monkeypatch.setattr(engine.terminal, "main", lambda *words: main(words))
    assert asked(monkeypatch, engine, "-p", "one", "-p", "two") == 2
    said = capsys.readouterr()
    assert said.out == f"--- question 2, trace 1 ---\n{SHOWN}\n"
    assert "the engine failed at 1 of 2 traces" in said.err


def test_a_file_is_solved_under_a_frame_and_its_results_come_above_it(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, tmp_path: Path
) -> None:
    model = small_checkpoint(tmp_path / "model")
    rows = [{"id": name, "question": f"What is {name}?"} for name in ("1 + 2", "2 + 2")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("h1r.evals.solve_view.PERIOD", 0.02)
    keys = ("scaling.budgets=[4]", "scaling.warmup=2", "scaling.max_tokens=8", "engine.max_sequences=1")
    options = [part for key in keys for part in ("--set", key)]
    out = ("--out", tmp_path / "out.jsonl")
    assert terminal.main("solve", model, tmp_path / "own.jsonl", *options, *out) == 0
    text = terminal.text
    order = r"writes  .*--- 1 \+ 2 ---\n.*\n  votes .*writes  .*--- 2 \+ 2 ---\n.*\n  votes "
    assert re.search(order, text, re.DOTALL)
    assert "2/2 problems, " in text
    assert not re.search(r"[3-9]/2 problems", text)
    assert re.search(r"2 problems: [\d,]+ tokens, against about [\d,]+ without stopping\n$", text)
    assert terminal.main("solve", model, tmp_path / "own.jsonl", *options, *out) == 0
    again = terminal.text.removeprefix(text)
    assert [again.count(f"--- {row['id']} ---") for row in rows] == [1, 1]
