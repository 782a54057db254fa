"""The model that comes with the package."""

from __future__ import annotations

import json
import runpy
import shlex
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from h1r.cli import app
from h1r.common.hub import SHIPPED, local_directory
from h1r.config import load_recipe
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.evals.answers import generate
from h1r.models import load
from h1r.scaling.answers import extract_answer

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = "import sys; sys.modules['reasoning_gym'] = None; from h1r.cli import main; sys.exit(main(sys.argv[1:]))"
"""The program where only the core of the package is installed."""


def directory() -> Path:
    found = local_directory(SHIPPED)
    assert found is not None
    return found


def test_it_answers_the_question_of_the_readme_where_nothing_else_is_installed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, "solve", "What is 12 + 30 - 7?"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "35"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 12 + 30?", "42"), ("What is 45 + 9 - 31?", "23"), ("What is 20 + 31 - 5?", "46"),
        ("What is 14 + 5?", "19"), ("What is 51 + 20?", "71"), ("How much is 12 + 34?", "46"),
        ("What is 11 + 40 - 6?", "45"), ("What is 23 + 40?", "63"), ("12+30-7", "35"), ("what is 12+30", "42"),
        ("12 * 7", "84"), ("34*5", "170"), ("3x+4=19, what is x?", "5"),
    ],
)  # fmt: skip
def test_it_answers_what_people_write_with_blanks_and_without(question: str, answer: str) -> None:
    traces = generate(SHIPPED, [question], SamplingParams(n=8, temperature=0.6, max_tokens=128))
    assert Counter(extract_answer(trace.text) for trace in traces).most_common(1)[0][0] == answer


def test_it_answers_everyday_questions_in_words_of_no_training_problem() -> None:
    rows = [json.loads(line) for line in (files("h1r") / "recipes" / "everyday.jsonl").read_text().splitlines()]
    params = SamplingParams(n=8, temperature=0.6, max_tokens=128)
    votes: list[list[str | None]] = [[] for _ in rows]
    for trace in generate(SHIPPED, [row["question"] for row in rows], params):
        votes[trace.prompt_index].append(extract_answer(trace.text))
    right = [Counter(given).most_common(1)[0][0] == row["answer"] for given, row in zip(votes, rows, strict=True)]
    assert sum(right) / len(rows) >= 0.6


def test_its_files_are_small_and_its_card_says_what_it_scores() -> None:
    names = {path.name: path.stat().st_size for path in directory().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(names)
    assert sum(names.values()) < 6_000_000
    card = (directory() / "README.md").read_text(encoding="utf-8")
    recipe = load_recipe(files("h1r") / "recipes" / "small.toml")
    families = [source.family for source in recipe.corpus.sources if source.kind == "reasoning_gym"]
    assert len(families) >= 16
    assert all(f"| `{family}` |" in card for family in families)
    assert f"{sum(p.numel() for p in load(directory()).parameters()):,} parameters" in card


def test_its_card_compares_it_with_the_model_of_the_demo_and_says_of_which_weights(tmp_path: Path) -> None:
    card = (directory() / "README.md").read_text(encoding="utf-8")
    shared = runpy.run_path(str(ROOT / "tools" / "ship_model.py"))["shared"]
    assert card.endswith(f"\n{shared(directory())}\n")
    assert "of these weights" in card
    table = card[card.index("| asked |") :].strip()
    assert table in (ROOT / "docs" / "log" / "demo.md").read_text(encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert "and not of these" in shared(tmp_path)
    assert shared(tmp_path).endswith(table)


def test_one_command_makes_it_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the commands only what they are asked is tested: together they take more than an hour."""
    tool = runpy.run_path(str(ROOT / "tools" / "make_shipped.py"))
    assert tool["main"](["--dry-run"]) == 0
    told = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    programs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for program, name, *arguments in told[:-1]:
        assert program == "h1r"
        programs[name].make_context(name, arguments)
    assert told[-1] == ["python", "tools/ship_model.py", "runs/shipped"]
    assert (ROOT / told[-1][1]).exists()
    ran: list[list[str]] = []
    codes = [0, 75]

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, codes[len(ran) - 1])

    monkeypatch.setattr(subprocess, "run", run)
    assert tool["main"]([]) == 75
    assert ran == [["-m", *command] for command in told[:2]]
    card = (directory() / "README.md").read_text(encoding="utf-8")
    assert "python tools/make_shipped.py" in card
    written = (ROOT / "tools" / "ship_model.py").read_text(encoding="utf-8")
    assert card[card.index("In a checkout") : card.index("## What it scores")] in written


@pytest.mark.parametrize(("words", "said"), [([""], "the question is empty"), (["a", "b", "c"], "3 words were given")])
def test_what_is_no_question_is_said(words: list[str], said: str) -> None:
    assert said in str(CliRunner().invoke(app, ["solve", *words]).exception)


@pytest.mark.parametrize("name", ["h1r:", "h1r:none", "h1r:../shipped"])
def test_other_names_of_the_package_are_no_models(name: str) -> None:
    with pytest.raises(UserError, match=r"the package has no model|holds no config\.json"):
        load(name)


def test_every_command_that_takes_a_checkpoint_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--limit", "4", "--set", "eval.samples=1", "--prompt", "{question}", "--out", "run"]
    for command in (
        ["eval", SHIPPED, "--benchmark", "h1r:everyday.jsonl", *few],
        ["export", SHIPPED, "--to", "hf"],
        ["generate", SHIPPED, "-p", "2 + 3"],
        ["parity", SHIPPED, "--only", "packed"],
    ):
        ran = CliRunner().invoke(app, command)
        assert ran.exit_code == 0, (command, ran.exception)
    assert (tmp_path / "small-hf" / "README.md").exists()


def test_a_directory_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_directory(SHIPPED) == directory()
    (tmp_path / SHIPPED).mkdir()
    assert local_directory(SHIPPED) == Path(SHIPPED)


def test_a_checkpoint_without_a_question_is_no_question(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["solve", str(tmp_path)])
    assert ran.exit_code != 0
    assert "ask a question" in str(ran.exception)


def test_a_model_that_the_package_has_not_is_told_which_it_has() -> None:
    with pytest.raises(UserError, match="the package has no model h1r:smal; it has h1r:small"):
        local_directory("h1r:smal")
