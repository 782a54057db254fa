"""A run forgives: what failed at once pins nothing, and how models are measured never costs the models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from h1r.cli import main
from h1r.common.files import locked, read_json, write_json
from h1r.config import Recipe
from h1r.errors import UserError
from h1r.run.changes import spoilt, stages_of
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run


def h1r(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def recipe(**tables: Any) -> Recipe:
    return Recipe.model_validate({"name": "a", **tables})


def trained(path: Path) -> Run:
    """A run with every part finished."""
    run = Run.open(path, recipe())
    for stage in ("sft", "rl"):
        (run.stage(stage) / "model").mkdir()
    for file in ("curate/summary.json", "rl_pool/pool.jsonl", "scaling/result.json", "eval/sft.json", "eval/rl.json"):
        write_json(path / file, {})
    for stage in ("curate", "sft", "eval_sft", "pool", "rl", "eval_rl", "scaling"):
        write_json(path / "done" / f"{stage}.json", {})
    return run


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"sft": {"epochs": 1}},
        {"corpus": {"seed": 2}},
        {"eval": {"samples": 1}},
        {"chat": {"system_prompt": ""}},
    ],
)
def test_a_run_in_which_nothing_has_begun_takes_any_recipe(tmp_path: Path, change: dict[str, Any]) -> None:
    run = Run.open(tmp_path, recipe())
    (run.stage("curate") / "work").mkdir()  # as a command leaves it that failed at its first file
    write_json(run.stage("sft") / "data.json", [])
    Run.open(tmp_path, recipe(**change))
    assert Recipe.model_validate(read_json(tmp_path / "recipe.json")) == recipe(**change)


def test_what_comes_later_is_measured_again_and_no_model_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path)
    Run.open(tmp_path, recipe(eval={"samples": 2}))
    assert capsys.readouterr().err == "".join(
        f"eval_{which}: to be measured again, since eval.samples has changed\n" for which in ("sft", "rl")
    )
    assert not (tmp_path / "done/eval_sft.json").exists()
    assert not (tmp_path / "eval/sft.json").exists()
    assert (tmp_path / "done/scaling.json").exists()
    Run.open(tmp_path, recipe(eval={"samples": 2}, scaling={"budgets": [16]}))
    assert not (tmp_path / "scaling/result.json").exists()
    assert (tmp_path / "scaling/result.before.json").exists()
    assert (tmp_path / "sft/model").is_dir()
    assert (tmp_path / "done/rl.json").exists()


@pytest.mark.parametrize(
    ("change", "kept", "deleted"),
    [
        ({"rl": {"steps": 3}}, ["curate", "sft", "rl_pool"], ["rl", "done/rl.json"]),
        ({"rl": {"max_tokens": 30}}, ["curate", "sft"], ["rl_pool", "done/pool.json", "rl", "done/rl.json"]),
        ({"rl_pool": {"rollouts": 3}}, ["curate", "sft"], ["rl_pool", "rl"]),
        ({"sft": {"epochs": 1}}, ["curate"], ["sft", "rl_pool", "rl"]),
        ({"sft": {"seq_len": 64}}, [], ["curate", "sft", "rl_pool", "rl"]),
        ({"model": {"overrides": {"hidden_size": 32}}}, ["curate"], ["sft", "rl_pool", "rl"]),
        ({"seed": 1}, [], ["curate", "sft", "rl_pool", "rl"]),
    ],
)
def test_a_refusal_names_only_what_the_change_spoils(
    tmp_path: Path, change: dict[str, Any], kept: list[str], deleted: list[str]
) -> None:
    trained(tmp_path)
    with pytest.raises(UserError) as refused:
        Run.open(tmp_path, recipe(**change))
    named = str(refused.value).partition("or delete ")[2]
    assert all(str(tmp_path / path) in named for path in deleted)
    assert not any(f"{tmp_path / path} " in named for path in kept)
    assert read_json(tmp_path / "recipe.json") == recipe().model_dump(mode="json")


def test_a_stage_that_runs_now_is_not_given_another_recipe(tmp_path: Path) -> None:
    Run.open(tmp_path, recipe())
    with (
        locked(tmp_path / ".sft.lock", ""),
        pytest.raises(UserError, match=r"another process runs sft in .*sft\.epochs"),
    ):
        Run.open(tmp_path, recipe(sft={"epochs": 1}))
    Run.open(tmp_path, recipe(sft={"epochs": 1}))


def test_every_key_has_stages_and_the_rest_begins_with_curation(tmp_path: Path) -> None:
    known = {key for key in Recipe.model_fields if stages_of(key)[0] == "curate"}
    assert known == {
        "name", "seed", "threads", "plugins", "tokenizer", "chat", "problems", "curate", "corpus", "parallel",
        "cluster", "engine", "rollout", "verify", "controls", "ablation", "judge", "trackers",
    }  # fmt: skip
    Checkpoints(tmp_path / "sft").save(1, lambda directory: write_json(directory / "state.json", 1))
    assert spoilt(tmp_path, "rl.steps") == []
    assert spoilt(tmp_path, "sft.epochs") == [str(tmp_path / "sft")]


def test_a_wrong_column_pins_nothing_and_is_named_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"What is {n} + {n}?", "gold": str(2 * n)} for n in range(3)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("own.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), "own.parquet")
    for kind in ("jsonl", "json", "parquet"):
        for columns, why in (
            ("{ question = 'problme' }", "no column `problme`"),
            ("{ answer = 'glod' }", "no column `glod`"),
            ("{ question = 'problem', answer = 'gold' }", ""),
        ):
            Path("own.toml").write_text(
                f"name = '{kind}'\n[[corpus.sources]]\nname = 'own'\nkind = '{kind}'\npath = 'own.{kind}'\n"
                f"use = 'rl'\ncolumns = {columns}\n[corpus]\nworkers = 1\n[tokenizer]\nvocab_size = 300\n"
            )
            code = h1r("curate", "own.toml", "--json")
            said = capsys.readouterr()
            assert "was made by another recipe" not in said.err
            assert (code, why in said.err) == (2 if why else 0, True), said.err


def test_a_parquet_file_without_any_known_column_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.Table.from_pylist([{"ask": "1?", "gold": "1"}]), tmp_path / "own.parquet")
    (tmp_path / "own.toml").write_text(
        f"name = 'own'\n[[corpus.sources]]\nname = 'own'\nkind = 'parquet'\npath = '{tmp_path}/own.parquet'\n"
    )
    assert h1r("curate", str(tmp_path / "own.toml"), "--out", str(tmp_path / "run"), "--json") == 2
    assert "no usable row (1: no column `question`, and none of a known chat; name them" in capsys.readouterr().err


def test_ls_lists_runs_with_state_score_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert h1r("ls") == 2
    assert "no directory runs" in capsys.readouterr().err
    trained(Path("runs/whole"))
    write_json("runs/whole/eval/rl.json", {"pass_at_1": 0.695})
    write_json("runs/whole/eval/benchmarks/rl/mine.json", {"pass_at_1": 0.25})
    stopped = Run.open("runs/stopped", recipe())
    Checkpoints(stopped.path / "sft").save(12, lambda directory: write_json(directory / "state.json", 1))
    (stopped.path / "sft" / "big").write_bytes(bytes(3_000_000))
    Run.open("runs/fresh", recipe())
    Path("runs/no-run").mkdir()
    h1r("ls")
    said = capsys.readouterr().out
    assert "whole    scaling finished        rl: held-out 69.5%, mine 25.0%  " in said
    assert "runs/stopped  sft stopped at step 12  " in said
    assert "2.87 MiB" in said
    assert "runs/fresh    nothing finished" in said
    assert "no-run" not in said
    with locked(Path("runs/fresh/.sft.lock"), ""):
        h1r("ls", "--json")
    found = {one["path"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found["runs/fresh"]["state"], found["runs/whole"]["scores"]["mine"]) == ("sft runs", 0.25)
    # Wider than the terminal: a paragraph for each run.
    for number in range(6):
        write_json(f"runs/whole/eval/benchmarks/rl/benchmark-{number}.json", {"pass_at_1": 0.5})
    h1r("ls")
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    h1r("ls")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 < max(map(len, table))
    assert lines[lines.index("runs/whole") :][1].startswith("    scaling finished, ")
    assert " ".join(map(str.strip, lines)).count("benchmark-5 50.0%") == 1


@pytest.mark.parametrize("name", ["../up", "a/b", "/etc/x", "..", ".hidden", "", "a\\b"])
def test_the_name_of_a_run_cannot_leave_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("own.toml").write_text(f"name = {json.dumps(name)}\n")
    assert h1r("sft", "own.toml") == 2
    assert "would not lie in runs/; rename it, or give --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "own.toml"]
    h1r("sft", "own.toml", "--out", "elsewhere")
    assert "elsewhere/curate/tokenizer is missing" in capsys.readouterr().err
