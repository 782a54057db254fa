"""The figures of docs/guide/scaling.md are what its commands print."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from h1r.cli import main
from h1r.common.html import duration
from h1r.config import find_recipe, load_recipe
from h1r.train.plan.cards import parse_cards
from h1r.train.plan.plan import gigabytes, plan
from h1r.train.plan.run_time import run_time
from page_blocks import blocks, words

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guide" / "scaling.md"
TEXT = PAGE.read_text(encoding="utf-8")
PLANS = re.findall(r"^\| `(h1r [^`]+)` \| ([^|]+) \| ([^|]+) \| (\w+) \| ([^|]+) \|$", TEXT, flags=re.MULTILINE)
ROWS = re.findall(r"^\| (\d+) \| ([\d.]+) \|([^|]*)\| ([\d.]+) \|", TEXT, flags=re.MULTILINE)


def printed(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_a_plan_of_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [one for one in blocks(PAGE) if one.text.startswith("$ h1r")]
    command, output = block.text.split("\n", 1)
    assert printed(words(command)[2:], capsys).rstrip() == output.rstrip()


@pytest.mark.parametrize(("command", "memory", "step", "bound", "run"), PLANS)
def test_a_row_of_the_table_is_what_its_command_prints(
    command: str, memory: str, step: str, bound: str, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["--tokens", "30e9"] if command.startswith("h1r sft") else []
    found = json.loads(printed([*words(command)[1:], *tokens, "--json"], capsys))
    assert duration(found["run"]["seconds"]) == run
    assert found["fits"]
    assert gigabytes(found["needed_bytes"]) == memory
    assert duration(found["seconds_per_step"][found["bound_by"]]) == step
    assert found["bound_by"] == bound
    assert not any("nothing to do" in note for note in found["notes"])


def test_the_simulated_table_is_what_the_benchmark_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer steps, and as many engines as do something."""
    assert len(PLANS) > 8
    assert len(ROWS) > 10
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = importlib.import_module("rl_at_scale")
    recipe = load_recipe(find_recipe("h1r-7b-ray"), {"rl.backfill.overdraw": 0.15})
    costs, together = bench.costs_of(recipe, 1000, 256, "H100")
    monkeypatch.setattr(bench, "BATCHES_BEFORE", 6)
    changes = {"lookahead": 1, "steps": 9, "max_tokens": recipe.rl.max_tokens // bench.UNIT}
    found = bench.simulate(recipe.rl.model_copy(update=changes), costs, 200, together)
    assert found["step_seconds"] == pytest.approx(simulated("1", "0.15"), rel=0.03)


def simulated(lookahead: str, overdraw: str) -> float:
    """Seconds of a step in the page's table."""
    (step,) = [seconds for *row, kind, seconds in ROWS if (*row, kind.strip()) == (lookahead, overdraw, "")]
    return float(step)


@pytest.mark.parametrize("overdraw", ["0", "0.15"])
def test_the_plan_of_a_run_of_rl_is_near_the_simulation(overdraw: str) -> None:
    keys = {"rl.backfill.overdraw": float(overdraw), "rl.lookahead": 0, "cluster.trainers": 256}
    recipe = load_recipe(find_recipe("h1r-7b-ray"), {**keys, "cluster.engines": 1000})
    found = run_time(recipe, plan(recipe, "rl", parse_cards("1256xH100")))
    assert found.step == pytest.approx(simulated("0", overdraw), rel=0.2)
    told = [f"{float(text[0]) * 60 + float(text[1]):.0f}" for text in re.findall(r"(\d+) min\s(\d+) s", TEXT)]
    assert f"{found.step:.0f}" in told
    assert found.training == pytest.approx(28.0, abs=0.5)
