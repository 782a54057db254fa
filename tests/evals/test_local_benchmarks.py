"""Seventeen benchmarks from files, by one command: every one is read, asked, graded, and a row of the report; and
programs that are known to be right, or not to be, by the recipe alone."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from chat_server import chat_server, says
from h1r.cli import main
from h1r.config import find_recipe, load_recipe
from h1r.evals.benchmarks import load_benchmark
from h1r.verify.workers.pool import VerifierPool

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).parents[3] / "shared" / "data"))
SECTIONS = {one.name: one for one in load_recipe(find_recipe("local-benchmarks")).eval.benchmarks}
NAMES = list(SECTIONS)
SAID = "So I have it.\n\nAnswer: A\n\n\\boxed{1}"


@pytest.mark.timeout(900)  # seventeen data sets, on whatever machine
@pytest.mark.skipif(not DATA.is_dir(), reason="no benchmarks here")
def test_one_command_asks_seventeen_benchmarks_and_the_report_has_a_row_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with chat_server(says(SAID)) as server, pytest.raises(SystemExit) as ended:
        main(
            ["eval", "local-benchmarks", "--set", f"corpus.root={DATA}", "--url", server.url, "--model", "recorded",
             "--limit", "1", "--set", "controls.enabled=false", "--out", "run"]
        )  # fmt: skip
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert len(NAMES) == 17
    assert len(server.requests) == 17
    rows = {row["name"]: row for row in json.loads(Path("run/report.json").read_text(encoding="utf-8"))["benchmarks"]}
    assert sorted(rows) == sorted(f"{name}-first1" for name in NAMES)
    assert {(row["problems"], row["unscored"], row["error"]) for row in rows.values()} == {(1, 0.0, 0.0)}
    # The one answer is right where a letter is asked for and it is A, or a number and it is 1; no program, though.
    assert {rows[f"{name}-first1"]["pass_at_1"] for name in ("HumanEval", "LeetCode", "AIME24")} == {0.0}
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert all(f">{name}-first1<" in page for name in NAMES)
    assert all(name[:8] in said.out for name in NAMES)


@pytest.mark.skipif(not DATA.is_dir(), reason="no benchmarks here")
def test_humanevals_own_solutions_are_right_and_empty_bodies_are_not_by_the_recipe_alone() -> None:
    problems = load_benchmark(SECTIONS["HumanEval"], str(DATA)).problems
    with gzip.open(DATA / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    bodies = [row["canonical_solution"] for row in rows] + ["    pass\n"] * len(rows)
    texts = [f"```python\n{row['prompt']}{body}```" for row, body in zip(rows * 2, bodies, strict=True)]
    with VerifierPool() as pool:
        verdicts = pool.verify_many(problems * 2, texts)
    assert [verdict.error for verdict in verdicts[: len(rows)]] == [None] * 164
    assert [verdict.reward for verdict in verdicts] == [1.0] * 164 + [0.0] * 164
    assert {verdict.reason for verdict in verdicts[164:]} <= {"wrong", "crash"}
