"""What `benchmarks/eval_kill_test.py` counts: it finds an answer that is lost or asked again, and a changed score."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("eval_kill_test")


def evaluated(path: Path, texts: list[str], score: float = 0.5, seconds: float = 1.0) -> Path:
    folder = path / "eval" / "benchmarks" / "base"
    folder.mkdir(parents=True)
    rows = ({"sample": n, "text": text, "finish_reason": "stop"} for n, text in enumerate(texts))
    (folder / "b.1234.samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "b.json").write_text(json.dumps({"pass_at_1": score, "seconds": seconds}))
    return path


@pytest.mark.parametrize(
    ("texts", "changed", "equal"),
    [
        (["a", "b"], {"seconds": 9.0}, (True, True)),
        (["a", "b"], {"score": 0.25}, (False, True)),
        (["a"], {}, (True, False)),
        (["a", "c"], {}, (True, False)),
    ],
    ids=["another clock", "another score", "an answer less", "another answer"],
)
def test_an_evaluation_is_compared_score_by_score_and_byte_by_byte(
    bench: Any, tmp_path: Path, texts: list[str], changed: dict[str, float], equal: tuple[bool, bool]
) -> None:
    tally = bench.Tally(in_flight=4)
    tally.compare(evaluated(tmp_path / "killed", texts, **changed), evaluated(tmp_path / "unbroken", ["a", "b"]))
    assert (tally.scores_equal, tally.samples_equal) == equal
    assert bool(tally.numbers()["why"]) == (equal != (True, True))


def test_an_evaluation_that_left_nothing_is_equal_to_none(bench: Any, tmp_path: Path) -> None:
    tally = bench.Tally(in_flight=4)
    tally.compare(tmp_path / "killed", tmp_path / "unbroken")
    assert (tally.scores_equal, tally.samples_equal) == (False, False)


@pytest.mark.parametrize(("lost", "again", "wrong"), [([4, 3], 7, 0), ([5, 0], 5, 1), ([4, 3], 8, 1), ([1, 1], 1, 1)])
def test_what_was_lost_was_under_way_and_comes_again_alone(bench: Any, lost: list[int], again: int, wrong: int) -> None:
    tally = bench.Tally(in_flight=4, asked_twice=again)
    for requests in lost:
        tally.lost(requests)
    numbers = tally.numbers()
    assert (numbers["requests_lost_max"], len(numbers["why"])) == (max(lost), wrong)


def test_half_a_line_is_no_answer(bench: Any, tmp_path: Path) -> None:
    run = evaluated(tmp_path / "run", ["a", "b"])
    with next(run.rglob("*.samples.jsonl")).open("a") as handle:
        handle.write('{"problem": 0, "sample": 0, "verdict": {"reward": 1.0}}\n{"sample": 2, "finish_reason": "st')
    assert bench.kept(run) == 2
