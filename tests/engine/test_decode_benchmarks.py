"""The decoding benchmarks still drive the engine they measure: their rows, at sizes that take a moment."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from h1r.engine.native import graphs, memory_bytes, select_runner
from h1r.kernels.selection import select
from h1r.models import build
from h1r.models.falcon_h1.config import preset


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


def test_the_rows_beside_decoding_come_from_steps_of_the_engine(script: Callable[[str], Any]) -> None:
    decode = script("decode")
    model = build(preset("tiny"), 0).use(select("native"))
    confidence = decode.confidence_row("tiny", model)
    assert 0 < confidence["sampling_share"] < 1
    prefill = decode.prefill_row("tiny", model, "wall")
    assert prefill["seconds_one_trace"] > 0
    assert prefill["seconds_64_traces"] < 20 * prefill["seconds_one_trace"], "64 prefills would take 64 times as long"


def test_the_benchmark_for_a_card_runs_without_one(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = script("gpu_decode")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = "gpu_decode.py --geometries tiny --cases 2:8:6 --engines eager,graphs --repeats 1 --json"
    monkeypatch.setattr(sys, "argv", line.split())
    assert bench.main() == 0
    machine, eager = json.loads(capsys.readouterr().out)
    assert machine["read_gb_per_s"] > 0
    assert (eager["engine"], eager["sequences"], eager["new_tokens"]) == ("eager", 2, 6)
    assert eager["tokens_per_s"] == pytest.approx(1e3 * 2 / eager["ms_per_step"], rel=0.01)


def test_the_check_of_graphs_against_single_steps_passes_and_can_fail(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps for graphs; then with steps whose logits are off by a little."""

    class Capture:
        bytes = 0
        wrong = 0.0

        def __init__(self, device: torch.device) -> None: ...

        def __call__(self, step: Callable[[], None]) -> Callable[[], object]:
            def replay() -> None:
                step()
                if self.wrong and getattr(step, "func", None).__name__ == "_decode_running":  # type: ignore[union-attr]
                    step.func.__self__.slots.logits[:, ::2] += self.wrong  # type: ignore[attr-defined]

            return replay

    for module in (memory_bytes, select_runner):
        monkeypatch.setattr(module, "with_graphs", lambda model, enforce_eager: not enforce_eager)
    monkeypatch.setattr(graphs, "CudaCapture", Capture)
    bench, model = script("gpu_decode"), build(preset("tiny"), 0)
    row = bench.check_row("tiny", model)
    assert row["ok"]
    assert row["tokens_that_agree"] == row["tokens"]
    Capture.wrong = 0.01
    assert not bench.check_row("tiny", model)["ok"]
