"""The table of an evaluation in progress, and the lines that stand for it where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from h1r.common import progress
from h1r.config import EvalSection
from h1r.data.tokenizer import train_tokenizer
from h1r.evals.benchmark import evaluate
from h1r.evals.board import Board, display
from h1r.evals.samples import Samples
from h1r.records import Problem, Trace, Verdict
from h1r.rollout.pipeline import RolloutPipeline

TOKENIZER = train_tokenizer(["what is 3 plus 4 " * 4], 300)
PROBLEMS = [Problem(f"p{i}", f"what is {i} plus 4", str(i + 4)) for i in range(10)]
SECTION = EvalSection(samples=2, max_tokens=32)


class Answers:
    """Every answer has 50 tokens and takes a tenth of a second of a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.Bar.__init__, "__defaults__", (lambda: self.now,))

    def stream(self, prompts, params):
        for index, one in enumerate(params):
            for sample in range(one.n):
                self.now += 0.1
                yield Trace(index, sample, [7] * 50, "4", [], [], [], "stop")


def first_right(problems, texts):
    return [Verdict(float(problem.id == "p0"), extracted="4") for problem in problems]


def lines(board: Board, height: int = 40) -> dict[str, list[str]]:
    """The cells of each row that is shown, by its first one."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(board.table(height))
    rows = [line.split() for line in console.export_text().splitlines() if line.strip()]
    return {row[0]: row[1:] for row in rows}


def test_the_table_has_what_is_done_right_how_fast_and_what_is_left(monkeypatch, tmp_path) -> None:
    engine = Answers(monkeypatch)
    board = Board({"before": 4, "sums": 20, "waiting": 60})
    board.ended("before", 0.25)
    seen = {}

    def watched(trace):
        if trace.prompt_index == 6 and trace.sample_index == 0:
            seen.update(lines(board))
        return trace

    pipeline = RolloutPipeline(engine, TOKENIZER, first_right)
    real = pipeline.stream
    monkeypatch.setattr(pipeline, "stream", lambda *args: map(watched, real(*args)))
    result = evaluate(pipeline, PROBLEMS, SECTION, 0, board.progress, "sums", tmp_path / "samples.jsonl")
    assert seen["before"] == ["4/4", "25.0%"]
    assert seen["sums"] == ["12/20", "462", "0:01", "0:01"]  # 600 tokens in 1.3 s; no verdict before 64 answers
    assert seen["waiting"] == ["0/60"]
    assert seen["all"] == ["16/84", "462", "0:01", "0:07"]
    board.ended("sums", result.pass_at_1)
    assert lines(board)["sums"] == ["20/20", "10.0%", "500", "0:02"]


def test_what_a_stopped_attempt_left_is_done_and_in_no_rate(monkeypatch, tmp_path) -> None:
    engine, path = Answers(monkeypatch), tmp_path / "samples.jsonl"
    with Samples(path, PROBLEMS, 2) as samples:
        places = [(problem, sample) for problem in range(8) for sample in range(2)]
        samples.add([Trace(*place, [7] * 50, "4", [], [], [], "stop") for place in places])
        samples.grade(places, [Verdict(1.0, extracted="4") for _ in places])
    board = Board({"sums": 20})
    evaluate(RolloutPipeline(engine, TOKENIZER, first_right), PROBLEMS, SECTION, 0, board.progress, "sums", path)
    assert lines(board)["sums"] == ["20/20", "80.0%", "500", "0:00"]


def test_a_low_terminal_shows_the_benchmarks_around_the_one_that_runs() -> None:
    board = Board({f"b{number:02}": 10 for number in range(30)})
    with board.progress("b20", 10, "trace"):
        shown = lines(board, height=20)
    assert [name for name in shown if name.startswith("b2")] == [f"b{number}" for number in range(20, 26)]
    assert "b20" in shown
    assert shown["and"] == ["18", "benchmarks", "more"]
    assert len(shown) < 20


def test_a_terminal_has_the_table_and_a_file_has_lines(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "_quiet", False)
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with display({"sums": 20}, terminal) as shown, shown.progress("sums", 20, "trace") as bar:
        bar.advance(5, tokens=100, right=0.6)
    said = terminal.file.getvalue()
    assert all(word in said for word in ("5/20", "60.0%", "tokens/s"))
    with display({"sums": 20}) as shown, shown.progress("sums", 20, "trace") as bar:
        bar.advance(5, tokens=100, right=0.6)
    assert capsys.readouterr().err.splitlines()[-1].startswith("sums: 5/20 traces, ")
