"""What `benchmarks/shared_families.py` compares: a file of two halves, and rows that pair the same problems."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from h1r.config import BenchmarkSection, load_recipe
from h1r.data.curate.io.generated import GeneratedProblems
from h1r.evals.benchmarks import load_benchmark

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("shared_families")


def test_each_half_has_as_many_new_problems_of_each_family(bench: Any) -> None:
    tables = tomllib.loads((ROOT / "benchmarks" / "shared_families.toml").read_text())["eval"]["benchmarks"]
    asked = []
    for given in tables:
        section = BenchmarkSection.model_validate(given)
        problems = load_benchmark(section, str(ROOT)).problems
        assert set(Counter(one.family for one in problems).values()) == {bench.EACH}
        assert {one.id.split("-")[1] for one in problems} == {section.name}
        asked += [one.question for one in problems]
    assert len({*asked}) == len(asked) == 400
    sources = {one.family: one for one in bench.demo_sources()}
    known = {one.family: one for one in load_recipe(ROOT / "recipes" / "small.toml").corpus.sources}  # type: ignore[union-attr]
    assert all(known[family].wordings == "everyday" for family in sources)  # type: ignore[union-attr]


def test_what_was_drawn_is_left_out_and_a_half_is_in_other_words(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "EACH", 3)
    (source,) = (one for one in bench.demo_sources() if one.family == "leg_counting")
    stream = GeneratedProblems(source, bench.SEED).problems()
    first = [next(stream) for _ in range(2)]
    rows = bench.new_problems(source, {bench._library(one) for one in first[:1]})
    assert rows[0]["question"] == first[1].metadata["entry"]["question"]
    assert [row["wording"] for row in rows] == ["library"] * 3 + ["everyday"] * 3
    assert all(("Your task is to count" in row["question"]) == (row["wording"] == "library") for row in rows)


def test_a_family_without_new_problems_ends_it(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "DRAWS", 5)
    (source,) = (one for one in bench.demo_sources() if one.family == "leg_counting")
    with pytest.raises(SystemExit, match="5 draws left 95 of 100 problems open"):
        bench.new_problems(source, set())


def test_rows_pair_the_same_problems(bench: Any, tmp_path: Path) -> None:
    for model, right in (("demo", 1), ("small", 3)):
        for way in bench.WAYS:
            rows = [{"problem_id": f"{way}-{i}", "family": "f", "correct": right, "samples": 4} for i in range(5)]
            path = tmp_path / model / f"{way}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"outcomes": rows}))
    lines = bench.table(tmp_path / "demo", tmp_path / "small")
    assert len(lines) == 2 + 2 * 2 + 1
    assert lines[-1] == "| both | all | 25.0 [8.1, 55.8] | 75.0 [44.2, 91.9] | +50.0 [+50.0, +50.0] |"
    (tmp_path / "small" / "library.json").write_text(json.dumps({"outcomes": rows}))
    with pytest.raises(SystemExit, match="not asked the same problems"):
        bench.table(tmp_path / "demo", tmp_path / "small")
