"""Traces of one problem from several sources come together; answers that differ are a conflict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpora import answer, curated, outputs, question, trace

from h1r.config import Recipe

COLUMNS = {"question": "q", "answer": "a", "completion": "out"}


def recipe(path: Path, conflicts: str = "none", **corpus: Any) -> Recipe:
    """Three files: problems 0 to 11 with one trace each; 0 to 5 again in another typesetting with another trace; and 6
    to 8 once more, of which 6 has another answer, and 7 the same one written otherwise."""
    one = [{"q": question(n), "a": answer(n), "out": trace(n)} for n in range(12)]
    two = [
        {
            "q": f" {question(n).replace(' ', '  ')}",
            "a": answer(n),
            "out": trace(n, thinking=f"another way to {answer(n)}"),
        }
        for n in range(6)
    ]
    said = {6: "1", 7: f"{answer(7)}.0", 8: answer(8)}
    three = [{"q": question(n), "a": said[n], "out": trace(n, thinking=f"third way {n}")} for n in said]
    sources = []
    for name, rows in (("one", one), ("two", two), ("three", three)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"name": name, "kind": "jsonl", "path": f"{name}.jsonl", "columns": COLUMNS})
    section = {"root": str(path), "sources": sources, "shard_records": 4, "workers": 1, **corpus}
    return Recipe.model_validate(
        {"name": "merged", "corpus": section, "chat": {"system_prompt": ""}, "sft": {"seq_len": 256},
         "controls": {"enabled": False}, "curate": {"boilerplate_share": 1.0, "conflicts": conflicts}}
    )  # fmt: skip


def traces_of(stage: Path) -> dict[str, int]:
    """Question -> traces of it among the samples."""
    found: dict[str, int] = {}
    for line in (stage / "samples.jsonl").read_text().splitlines():
        asked = json.loads(line)["messages"][-2]["content"]
        found[" ".join(asked.split())] = found.get(" ".join(asked.split()), 0) + 1
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    path = tmp_path_factory.mktemp("merged")
    return curated(recipe(path), path / "run")


def test_traces_of_one_problem_in_several_sources_are_kept(done: tuple[dict[str, Any], Path]) -> None:
    found = traces_of(done[1])
    assert [found.get(question(n), 0) for n in range(12)] == [2] * 6 + [0, 2, 2] + [1] * 3
    dropped = {row["step"]: row for row in done[0]["table"]}["exact duplicates"]["reasons"]
    written = "same question, answer written otherwise, traces merged"
    assert dropped == {"same question, traces merged": 7, written: 1}


def test_a_question_with_answers_that_differ_is_a_conflict_and_no_side_is_chosen(
    done: tuple[dict[str, Any], Path],
) -> None:
    rows = [json.loads(line) for line in (done[1] / "dropped.jsonl").read_text().splitlines()]
    conflicts = [row for row in rows if row["step"] == "conflicting answers"]
    assert sorted(row["source"] for row in conflicts) == ["one", "three"]
    assert all(question(6) in row["excerpt"] for row in conflicts)


def test_the_first_answer_is_taken_where_the_recipe_says_so(tmp_path: Path) -> None:
    summary, stage = curated(recipe(tmp_path, conflicts="first"), tmp_path / "run")
    assert traces_of(stage)[question(6)] == 2
    assert "conflicting answers" not in {row["step"] for row in summary["table"] if row["reasons"]}


def test_shards_of_another_size_merge_the_same(done: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, stage = curated(recipe(tmp_path, shard_records=5000), tmp_path / "run")
    assert outputs(stage)["samples.jsonl"] == outputs(done[1])["samples.jsonl"]
