"""The floors of the house: a room imports only from floors below it, and the lower floors start without torch."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sources import imports

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "h1r"
FLOORS = [
    {"common", "config", "records", "run", "errors", "stand_ins"},
    {"kernels", "response", "sandbox"},
    {"mathematics", "models"},
    {"verify"},
    {"engine", "data"},
    {"rollout"},
    {"scaling", "train"},
    {"evals", "parity"},
    {"report", "serve"},
    {"delegate"},
    {"__main__", "ablate", "api", "cli", "pipeline"},
]
WITHOUT_TORCH = [
    "h1r.errors", "h1r.common.files", "h1r.config", "h1r.records", "h1r.run", "h1r.common.progress", "h1r.config.text",
    "h1r.models.falcon_h1.config", "h1r.engine.protocol", "h1r.sandbox", "h1r.verify", "h1r.cli", "h1r.pipeline",
    "h1r.serve.run",
]  # fmt: skip

NOT_IN_A_WORKER = ("asyncio", "h1r.config", "importlib.metadata", "numpy", "torch")


def floor(room: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


def imported_rooms(path: Path) -> set[str]:
    """The rooms of h1r that a file imports anywhere in it, TYPE_CHECKING blocks and functions included."""
    names = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import; write it in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("h1r.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":  # the public API, which imports a name when it is asked for, and nothing before
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and "h1r" in str(node.module)]
        return
    allowed = {name for level, rooms in enumerate(FLOORS) for name in rooms if level < floor(room)} | {room}
    if floor(room) in (0, len(FLOORS) - 1):
        allowed |= FLOORS[floor(room)]
    assert imported_rooms(path) <= allowed


def imported_files(path: Path, known: set[str]) -> set[str]:
    """The files of h1r, as module names, that a file imports anywhere in it."""
    found = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) | ({str(node.module)} if names - known else set())
    return found & known


def test_no_file_imports_itself_through_others() -> None:
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    # The public names of the package are looked up when they are asked for; nothing below may ask.
    graph = {name: imported_files(path, set(paths)) - {name} for name, path in paths.items() if name != "h1r"}
    done: set[str] = set()
    for start in sorted(graph):
        seen, waiting = set(), list(graph[start])
        while waiting:
            name = waiting.pop()
            assert name != start, f"{start} imports itself; the files on the way are among {sorted(seen)}"
            if name not in seen and name not in done and name in graph:
                seen.add(name)
                waiting += graph[name]
        done.add(start)


def test_no_room_is_more_than_a_sixth_of_the_house() -> None:
    lines: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        lines[path.relative_to(PACKAGE).parts[0]] += len(path.read_text(encoding="utf-8").splitlines())
    (largest, count), *_ = lines.most_common(1)
    assert count <= sum(lines.values()) / 6, f"{largest} has {count} of {sum(lines.values())} lines"


def module_of(path: Path) -> str:
    return ".".join(("h1r", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("room", ["scaling", "evals"])
def test_scaling_and_benchmarks_know_engines_only_by_the_protocol(room: str) -> None:
    builders = {"stages.py", "answers.py"}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in imports(path):
            if path.name not in builders and isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("h1r.engine") or node.module == "h1r.engine.protocol", path


def test_lower_floors_import_no_torch_and_a_verifiers_worker_next_to_nothing() -> None:
    """The worker, of which a pool starts many, comes first."""
    code = (
        "import sys, importlib\nimport h1r.verify.workers.worker\n"
        f"assert not {set(NOT_IN_A_WORKER)} & set(sys.modules), {set(NOT_IN_A_WORKER)} & set(sys.modules)\n"
    ) + "".join(
        f"importlib.import_module({name!r}); assert 'torch' not in sys.modules, {name!r}\n" for name in WITHOUT_TORCH
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
