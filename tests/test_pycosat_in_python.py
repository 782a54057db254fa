"""tools/pycosat stands in for pycosat where that cannot be compiled."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

SPEC = importlib.util.spec_from_file_location(
    "pycosat_in_python", Path(__file__).resolve().parents[1] / "tools" / "pycosat" / "pycosat.py"
)
assert SPEC is not None
assert SPEC.loader is not None
pycosat = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pycosat)

literals = st.integers(-5, 5).filter(bool)
problems = st.lists(st.lists(literals, max_size=4), max_size=12)


@given(problems)
def test_solutions_are_all_those_of_a_truth_table_each_once(clauses: list[list[int]]) -> None:
    count = max((abs(literal) for clause in clauses for literal in clause), default=0)
    table = itertools.product(*((v, -v) for v in range(1, count + 1)))
    expected = [row for row in table if all(set(clause) & set(row) for clause in clauses)]
    assert sorted(map(tuple, pycosat.itersolve(clauses))) == sorted(expected)


def test_a_contradiction_is_unsat() -> None:
    assert pycosat.solve([[1, 2], [-1], [-2]]) == "UNSAT"
    assert pycosat.solve([[1, 2], [-1]]) == [-1, 2]


@pytest.mark.slow
def test_the_package_brings_it_and_installs_it(tmp_path: Path) -> None:
    """Of pip only what it is asked is tested: it would fetch setuptools."""
    seen = tmp_path / "seen"
    fake = f"""import sys
from pathlib import Path
import subprocess
from types import SimpleNamespace
def run(command, **_):
    source = Path(command[-1])
    names = ",".join(sorted(path.name for path in source.iterdir()))
    Path({str(seen)!r}).write_text(" ".join(command[1:4]) + "|" + names)
    return SimpleNamespace(returncode=7)
subprocess.run = run
import runpy
sys.argv = ["h1r.stand_ins", *sys.argv[1:]]
runpy.run_module("h1r.stand_ins", run_name="__main__", alter_sys=True)
"""
    assert subprocess.run([sys.executable, "-c", fake, "pycosat"], check=False).returncode == 7
    told, _, names = seen.read_text().partition("|")
    assert told == "-m pip install"
    assert {"pyproject.toml", "pycosat.py"} <= set(names.split(","))
    other = subprocess.run([sys.executable, "-c", fake, "numpy"], capture_output=True, text=True, check=False)
    assert (other.returncode, other.stderr) == (2, "usage: python -m h1r.stand_ins pycosat\n")
