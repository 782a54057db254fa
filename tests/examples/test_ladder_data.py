"""The steps of the ladder of examples that bring data: fine-tuning on word problems, curation of a set of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h1r.common.files import read_json
from h1r.run.metrics import read_metrics
from ladder import smoke


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_word_problems_are_curated_learnt_and_measured_before_and_after(tmp_path: Path) -> None:
    smoke("03-word-problems", tmp_path)
    run = tmp_path / "runs" / "word-problems-smoke"
    losses = [step["loss"] for step in read_metrics(run / "sft" / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    for model in ("base", "sft"):
        assert read_json(run / "eval" / "benchmarks" / model / "test.json")["problems"] == 8


def test_what_must_go_is_dropped_with_its_reason(tmp_path: Path) -> None:
    smoke("05-curate-hub", tmp_path)
    curated = tmp_path / "runs" / "curated-smoke" / "curate"
    dropped = [(row["step"], row["reason"]) for row in read_rows(curated / "dropped.jsonl")]
    assert sorted(dropped) == [
        ("decontamination", "contained overlap with held-out"),
        ("exact duplicates", "same question, traces merged"),
        ("incorrect", "wrong answer"),
        ("near duplicates", "nearly the same question"),
        ("read", "malformed row"),
        ("traces", "no trace is left"),
    ]
    assert len(read_rows(curated / "samples.jsonl")) == 8
