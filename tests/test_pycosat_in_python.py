"""tools/pycosat stands in for pycosat where that cannot be compiled."""

import importlib.util
import itertools
from pathlib import Path

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
