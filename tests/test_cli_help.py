"""What `--help` says of every command, what the shell completes, and what is refused before torch is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from h1r import cli
from h1r.cli import COMMANDS, app

GROUP = typer.main.get_command(app)
INTERNALS = re.compile(r"<|\b(None|Optional|list\[|int|str|float|bool|Path|range)\b|x>=|x<=|\{[A-Z]|\[\[[A-Z]")


def help_of(*words: str) -> str:
    return CliRunner().invoke(app, [*words, "--help"], prog_name="h1r").output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_speaks_of_no_type_and_no_internals(command: str) -> None:
    text = help_of(command)
    assert text.startswith(f"Usage: h1r {command} [OPTIONS]")
    assert INTERNALS.findall(text.replace("[[eval.benchmarks]]", "")) == []


def test_no_line_of_the_list_of_commands_is_cut() -> None:
    listed = CliRunner().invoke(app, ["-h"], prog_name="h1r", env={"COLUMNS": "80"}).output.partition("Commands:")[2]
    assert all(re.search(rf"^  {command} +\S.*\.$", listed, flags=re.MULTILINE) for command in COMMANDS)
    assert "..." not in listed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_and_argument_says_what_it_does(command: str) -> None:
    for parameter in GROUP.commands[command].params:  # type: ignore[attr-defined]
        said = parameter.help or ""
        assert len(said.split()) >= 3, f"{command} {parameter.name}: {said!r}"


def test_the_short_form_is_the_long_one_for_every_command() -> None:
    for command in COMMANDS:
        assert CliRunner().invoke(app, [command, "-h"], prog_name="h1r").output == help_of(command)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("h1r so", {"solve"}), ("h1r e", {"eval", "export"}), ("h1r solve --re", {"--recipe"}), ("h1r init s", {"sft"})],
)
def test_bash_completes_commands_and_options(typed: str, completed: set[str]) -> None:
    asked = {"_H1R_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", "from h1r.cli import main; main()"],
        env={**os.environ, **asked}, capture_output=True, text=True,
    )  # fmt: skip
    assert set(done.stdout.split()) == completed, done.stderr


WRONG = {
    "solve": ["solve", "./nowhere", "2 + 2?"],
    "generate": ["generate", "./nowhere", "-p", "2 + 2?"],
    "chat": ["chat", "./nowhere"],
    "serve": ["serve", "./nowhere"],
    "eval": ["eval", "./nowhere.toml"],
    "eval of a file": ["eval", "h1r:small", "--benchmark", "nowhere.jsonl"],
    "sft": ["sft", "./nowhere.toml"],
    "sft of a file": ["sft", "nowhere.jsonl", "--model", "h1r:small"],
    "rl": ["rl", "./nowhere.toml"],
    "curate": ["curate", "./nowhere.toml"],
    "export": ["export", "./nowhere", "--to", "hf"],
    "push": ["push", "./nowhere", "owner/name"],
    "report": ["report", "./nowhere"],
    "verify": ["verify", "nowhere.jsonl"],
    "parity": ["parity", "./nowhere"],
}


NUMBERS = {
    "generate": ("--temperature", "--top-p"),
    "serve": ("--drain-seconds", "--stream-interval"),
    "sft": ("--tokens",),
    "verify": ("--time-limit", "--share", "--constant-share"),
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(("command", "option"), [(name, one) for name, options in NUMBERS.items() for one in options])
def test_what_is_no_number_is_refused_by_every_option_that_takes_one(command: str, option: str, value: str) -> None:
    done = CliRunner().invoke(app, [command, "x", option, value], prog_name="h1r")
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


def test_every_option_with_a_number_is_among_them() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(cli.__file__).parent.glob("*.py"))
    count = sum(map(len, NUMBERS.values()))
    assert len(re.findall(r"Annotated\[\s*float", sources)) == sources.count("callback=finite") == count


def test_a_path_that_is_not_there_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import json, sys\nfrom h1r.cli import main\nfound = {}\nsys.modules['torch'] = None  # its import fails\n"
        f"for name, words in {WRONG!r}.items():\n"
        "    try:\n        code = main(words)\n"
        "    except BaseException as end:\n        code = getattr(end, 'code', repr(end))\n"
        "    found[name] = code\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(WRONG, 2), done.stderr
    assert list(tmp_path.iterdir()) == []
