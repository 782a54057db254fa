"""Every command of README and the pages is one that the program takes; every recipe and record in them is valid.

Nothing is run here: arguments are parsed as the command would parse them. What also runs is in test_page_blocks.py.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand

import h1r.cli
from h1r.config import Recipe, load_recipe
from page_blocks import Block, blocks, inline_commands, words

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "examples").rglob("README.md")),
    *sorted((ROOT / "src").rglob("shipped/*/README.md")),
    # The log tells of commands as they were on their day
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "log"),
]
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = typer.main.get_command(h1r.cli.app).commands  # type: ignore[attr-defined]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def name(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def check(command: str) -> None:
    """Raises what the parser raises, or fails, for what no program here takes."""
    told = words(command)
    while told and re.fullmatch(r"[A-Z][A-Z0-9_]*=\S*", told[0]):
        del told[0]
    for redirect in (">", "2>"):
        told = told[: told.index(redirect)] if redirect in told else told
    if "|" in told:
        cut = told.index("|")
        check(" ".join(map(_quoted, told[:cut])))
        check(" ".join(map(_quoted, told[cut + 1 :])))
    elif told[:1] == ["torchrun"]:
        check(" ".join(map(_quoted, ["h1r", *told[told.index("h1r") + 1 :]])))
    elif told[:3] == ["python", "-m", "h1r"]:
        check(" ".join(map(_quoted, ["h1r", *told[3:]])))
    elif told[:1] == ["make"]:
        assert re.search(rf"^{told[1]}:", MAKEFILE, flags=re.MULTILINE), command
    elif told[:1] == ["python"] and told[1].endswith(".py"):
        program = ROOT / told[1]
        assert program.exists(), command
        options = [word.split("=")[0] for word in told[2:] if word.startswith("--")]
        text = program.read_text(encoding="utf-8")
        assert [option for option in options if f'"{option}"' not in text] == [], command
    elif told[:1] == ["h1r"]:
        _h1r(told[1:])


def _quoted(word: str) -> str:
    return word if word == "|" else "'" + word.replace("'", "'\\''") + "'"


def _h1r(arguments: list[str]) -> None:
    """Parses `h1r ARGUMENTS`. `a|b` is tried as either; brackets and dots mark what may be left out."""
    if not arguments or arguments[0].startswith("-"):
        return
    plain = [word.strip("[]").removesuffix("...") or "..." for word in arguments]
    choices = [word.split("|") if re.fullmatch(r"[\w/]+(\|[\w/.]+)+", word) else [word] for word in plain]
    for one in itertools.product(*choices):
        command = COMMANDS[one[0]]
        assert isinstance(command, TyperCommand)
        command.make_context(f"h1r {one[0]}", list(one[1:]))


@pytest.mark.parametrize("block", of("sh"), ids=name)
def test_the_commands_of_a_block_are_parsed(block: Block) -> None:
    assert block.commands
    for command in block.commands:
        check(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_in_the_text_are_parsed(page: Path) -> None:
    for command in inline_commands(page):
        try:
            check(command)
        except Exception as error:
            # The text may name a command, or an option, without all that it needs
            if type(error).__name__ not in ("MissingParameter", "BadOptionUsage"):
                raise


@pytest.mark.parametrize("block", of("toml"), ids=name)
def test_a_recipe_of_a_page_is_valid(block: Block, tmp_path: Path) -> None:
    keys = tomllib.loads(block.text)
    if "project" in keys:
        return  # a package's own pyproject.toml
    # The plugins that pages name are the examples, but for that of a package somebody may have
    for plugin in (ROOT / "examples").glob("own_*.py"):
        (tmp_path / plugin.name).symlink_to(plugin)
    text = block.text.replace(', "my_package.rewards"', "")
    if next(iter(keys)) not in {*Recipe.model_fields, "extends"}:  # it goes on in the table that the page began before
        before = [one for one in of("toml") if one.page == block.page and one.line < block.line]
        text = f"{before[-1].text}\n{text}"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text if "name" in keys else f'name = "page"\n{text}', encoding="utf-8")
    load_recipe(recipe)


@pytest.mark.parametrize("block", of("json"), ids=name)
def test_json_of_a_page_can_be_read(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", of("python"), ids=name)
def test_python_of_a_page_can_be_compiled(block: Block) -> None:
    compile(block.text, name(block), "exec")


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples").rglob("*.toml")), ids=lambda path: str(path.name))
def test_the_recipes_of_the_examples_are_valid(recipe: Path) -> None:
    load_recipe(recipe)


REASONS = re.compile(
    r"(needs (a card|a network|a package index|a model server|a cluster|data|llama\.cpp|vLLM|a plugin)|"
    r"takes (a minute|ten minutes|half an hour)|forms of commands|(?P<test>\S+\.py) runs it)\b.*"
)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.not_run is not None], ids=name)
def test_a_block_that_is_not_run_says_why(block: Block) -> None:
    found = REASONS.fullmatch(block.not_run or "")
    assert found
    assert found["test"] is None or (ROOT / found["test"]).exists()
