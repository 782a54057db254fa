"""RL that starts from a checkpoint and a file of problems: no SFT, no curation, and no problem without a reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, checksum_verdicts, training_recipe

from h1r.cli import main
from h1r.common.files import read_json
from h1r.config import Recipe
from h1r.data.tokenizer import load_tokenizer, train_tokenizer
from h1r.errors import UserError
from h1r.models import build, load, save
from h1r.pipeline import run_stage
from h1r.records import Problem, read_jsonl
from h1r.run.directory import Run
from h1r.train import rl as module
from h1r.train.pool import build_pool
from h1r.train.problems import check_ids, read_problems
from h1r.train.rl import rl

ROWS = [
    {"question": "What is 2 + 3?", "answer": 5},
    {"id": "six", "question": "What is 2 times 3?", "answer": "6", "family": "products"},
    {"id": 7, "question": "What is 3 + 4?", "answer": "7"},
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(["What is 2 + 3? user assistant"] * 5, 280)
    config = CONFIG.replaced(vocab_size=288, eos_token_id=tokenizer.eos_token_id, max_position_embeddings=400)
    return save(build(config), tmp_path / "base", tokenizer)


def written(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def opened(tmp_path: Path, checkpoint: Path, rows: list[object], **sections: dict) -> tuple[Recipe, Run]:
    given = {"checkpoint": str(checkpoint), "problems": str(written(tmp_path / "problems.jsonl", rows))}
    tiny = {"steps": 1, "batch_size": 2, "num_generations": 2, "max_tokens": 8, "warmup_steps": 0}
    recipe = training_recipe(rl={**tiny, **given}, controls={"enabled": False}, **sections)
    return recipe, Run.open(tmp_path / "run", recipe)


def test_a_checkpoint_and_a_file_of_problems_are_enough(checkpoint, tmp_path, monkeypatch):
    recipe, run = opened(tmp_path, checkpoint, [*ROWS], rl_pool={"rollouts": 0})
    run_stage("pool", recipe, run)
    assert [one.id for one in read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)][1:] == ["six", "7"]
    plain = module.train_rl
    monkeypatch.setattr(
        module, "train_rl", lambda m, e, verifier, *rest, **more: plain(m, e, checksum_verdicts, *rest, **more)
    )
    assert rl(recipe, run)["steps"] == 1
    before, after = load(checkpoint).state_dict(), load(run.path / "rl" / "model").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert sorted(one.name for one in run.path.iterdir() if one.is_dir()) == ["done", "rl", "rl_pool"]


def test_a_run_of_rl_alone_is_evaluated_on_a_file(checkpoint, tmp_path, capsys):
    """It has no base model, since nothing says what tokenizer that would have."""
    _, run = opened(tmp_path, checkpoint, [*ROWS])
    save(load(checkpoint), run.stage("rl") / "model", load_tokenizer(checkpoint))
    benchmark = written(tmp_path / "benchmark.jsonl", [{"question": "What is 2 + 3?", "answer": "5"}])
    options = ["--set", "eval.samples=1", "--set", "eval.max_tokens=4", "--no-scaling", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(run.path), "--benchmark", str(benchmark), *options])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["eval_rl"]
    assert list(found["eval_rl"]["benchmarks"]) == ["benchmark"]


@pytest.mark.parametrize("missing", [None, "", " ", "NaN", float("nan"), "N/A", "null"])
def test_a_problem_without_a_reference_never_enters_the_pool(checkpoint, tmp_path, missing, capsys):
    rows = [*ROWS, {"id": "none", "question": "What is it?", "answer": missing}]
    recipe, run = opened(tmp_path, checkpoint, rows, rl_pool={"rollouts": 0})
    summary = build_pool(recipe, run)
    assert [one.id for one in read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)][1:] == ["six", "7"]
    assert summary["table"][0]["reasons"] == {"no reference answer": 1}
    assert read_json(run.path / "rl_pool" / "summary.json") == summary
    assert "1 problem without a reference answer" in capsys.readouterr().err


def test_a_file_of_nothing_but_such_problems_is_refused(checkpoint, tmp_path):
    recipe, run = opened(tmp_path, checkpoint, [{"question": "q?", "answer": None}], rl_pool={"rollouts": 0})
    with pytest.raises(UserError, match="no RL problem is left"):
        build_pool(recipe, run)


def test_a_problem_that_needs_no_reference_answer_is_taken(checkpoint, tmp_path):
    coded = {"id": "c", "question": "Say.", "answer": "", "verifier": "code", "metadata": {"tests": ["assert say()"]}}
    recipe, run = opened(tmp_path, checkpoint, [coded], rl_pool={"rollouts": 0})
    build_pool(recipe, run)
    assert [one.id for one in read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)] == ["c"]


def test_ids_that_repeat_are_refused(checkpoint, tmp_path):
    recipe, run = opened(tmp_path, checkpoint, [*ROWS, {"id": "six", "question": "Another?", "answer": "1"}])
    with pytest.raises(UserError, match=r"problems\.jsonl: two problems have the id `six`"):
        build_pool(recipe, run)
    with pytest.raises(UserError, match=r"two problems have the id"):
        check_ids(read_problems(written(tmp_path / "twice.jsonl", [ROWS[0], ROWS[0]])), "twice")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("not json", r"line 2: not JSON"),
        ("[1]", r"line 2: "),
        ({"question": 5, "answer": "x", "id": "a"}, r"line 2: question: "),
        ({"problem": "What?", "answer": "x"}, r"line 2: .*files of other shapes are read by \[\[corpus\.sources\]\]"),
        ({"question": "What?", "answer": True}, r"line 2: answer: "),
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path, row, why):
    with pytest.raises(UserError, match=why):
        read_problems(written(tmp_path / "p.jsonl", [ROWS[0], row]))


def test_an_empty_or_missing_file_is_refused(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"text": "1 + 1?", "gold": "2"}\n')
    with pytest.raises(UserError, match=r"other.jsonl, line 1: no `question` \(there are text, gold\)"):
        read_problems(tmp_path / "other.jsonl")
    with pytest.raises(UserError, match="holds no problem"):
        read_problems(written(tmp_path / "p.jsonl", []))
    with pytest.raises(UserError, match="cannot read"):
        read_problems(tmp_path / "none.jsonl")
