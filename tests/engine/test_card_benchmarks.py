"""The scripts for a first run on a card, rehearsed without one: a part that fails costs only itself."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


def part(card: Any, program: str, **changed: Any) -> Any:
    return card.Part(**{"name": "one", "command": [sys.executable, "-c", program], "limit_s": 100,
                        "figures": card.printed_json, **changed})  # fmt: skip


def test_figures_are_read_after_what_libraries_print(script: Callable[[str], Any], tmp_path: Path) -> None:
    card = script("card")
    row = card.run(part(card, "print('{not json'); print('{\\n \"rows\": 3\\n}'); print('bye')"), tmp_path)
    assert (row["verdict"], row["figures"]) == ("passed", {"rows": 3})
    assert "rows 3" in card.told(row)


@pytest.mark.parametrize(
    ("program", "limit", "why"),
    [
        ("print('{}'); print('CUDA error'); raise SystemExit(3)", 100, "exit status 3; CUDA error"),
        ("print('begun', flush=True); import time; time.sleep(600)", 0.3, "ended after its"),
        ("print('nothing to read')", 100, "could not be read"),
    ],
)
def test_a_part_that_fails_says_why(
    program: str, limit: float, why: str, script: Callable[[str], Any], tmp_path: Path
) -> None:
    card = script("card")
    row = card.run(part(card, program, limit_s=limit), tmp_path)
    assert row["verdict"] == "failed"
    assert why in row["why"]


def test_what_cannot_run_here_is_skipped(script: Callable[[str], Any], tmp_path: Path) -> None:
    card = script("card")
    row = card.run(part(card, "1/0", needs=("no_such_package",)), tmp_path)
    assert (row["verdict"], row["why"]) == ("skipped", "no_such_package is not installed")
    assert card.run(part(card, "1/0", card_only=True), tmp_path)["why"] == "needs a CUDA card"


def test_a_failure_costs_the_parts_behind_it_nothing(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = script("card")
    chosen = [part(card, "1/0", name="bad"), part(card, "print('{\"n\": 1}')", name="good")]
    monkeypatch.setattr(card, "parts", lambda out: chosen)
    monkeypatch.setattr(sys, "argv", ["card.py", "--out", str(tmp_path)])
    assert card.main() == 1
    rows = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert [row["verdict"] for row in rows] == ["failed", "passed"]


def test_every_part_names_a_script_and_options_that_exist(script: Callable[[str], Any], tmp_path: Path) -> None:
    """Those of the package are commands; the scripts take the options that they are given, and find what is wrong with
    a geometry only afterwards."""
    card, step = script("card"), script("gpu_train_step")
    for one in card.parts(tmp_path):
        words = one.command[1:]
        assert words[0] == "-m" or Path(words[0]).is_file()
        assert one.command[0] == sys.executable
        if words[0].endswith("gpu_train_step.py"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words)
                assert step.command_line().out.parent == tmp_path


def test_the_training_step_is_rehearsed_on_a_processor(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, out = script("gpu_train_step"), tmp_path / "step.json"
    line = f"gpu_train_step.py --quick --only steps,operators --no-peers --geometries tiny:1 --tokens 48 --out {out}"
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {row["operator"] for row in found["operators"]} >= {"scan", "attention", "conv_silu"}
    ours = [row for row in found["steps"] if row["engine"] == "h1r"]
    assert [row["mix"] for row in ours] == ["one document", "packed"]
    assert all(row["tokens_per_s"] > 0 and row["foretold_gib"] > 0 for row in ours)
    assert all(abs(row["loss"] - 7.1) < 0.5 for row in ours), "random weights know nothing of 1,280 words"
