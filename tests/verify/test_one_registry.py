"""Rewards and evaluation grade through the same code: a backend, which asks the registry for the problem's verifier."""

import ast
import re
from pathlib import Path

import pytest

import h1r
from h1r.config import Recipe
from h1r.config.verify import VerifySection
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify import Verifier, VerifierPool, open_backend, register
from sources import imports

SOURCE = Path(h1r.__file__).parent
GRADERS = {"exact", "math", "choice", "code", "instructions", "judge", "reasoning_gym", "registry"}
INNER_WORKERS = {"dispatch", "worker", "child"}
"""What grades, or leads to what grades, without the pool's limits."""
MAY_COMPARE = {"scaling/answers.py", "scaling/answer_groups.py"}
"""Voting compares answers with each other; it grades none."""


def imported_graders(path: Path) -> set[str]:
    found = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("h1r.verify"):
            parts = (node.module or "").split(".")
            found |= {parts[2]} if len(parts) > 2 else {alias.name for alias in node.names}
    return found & GRADERS


@pytest.mark.parametrize("room", ["train", "evals", "scaling", "engine"])
def test_no_room_grades_past_the_pool(room):
    files = [path for path in (SOURCE / room).rglob("*.py") if f"{room}/{path.name}" not in MAY_COMPARE]
    assert files
    for path in files:
        assert not imported_graders(path), path


@pytest.mark.parametrize(
    "file", ["train/rl.py", "train/pool.py", "evals/stages.py", "evals/solving.py", "data/curate/plan.py"]
)
def test_each_stage_opens_the_backend_that_the_recipe_names(file):
    source = (SOURCE / file).read_text(encoding="utf-8")
    assert re.search(r"open_backend\((self\.)?recipe\.verify[,)]", source)
    assert "VerifierPool(" not in source


def only_even(problem: Problem, answer: str) -> Verdict:
    return Verdict(float(answer.strip().endswith(("0", "2", "4", "6", "8"))))


def test_a_verifier_that_a_user_registers_is_used_by_name():
    register(Verifier("test-even", grade=f"{__name__}:only_even"))
    with open_backend(VerifySection(workers=1)) as backend:
        found = backend.verify_many([Problem("p", "", "", "test-even")] * 2, ["12", "13"])
    assert [verdict.reward for verdict in found] == [1.0, 0.0]


def test_the_default_backend_is_this_machines_processes():
    backend = open_backend(Recipe(name="x").verify)
    assert isinstance(backend, VerifierPool)
    backend.close()


def test_an_unknown_backend_is_refused_with_the_key():
    from h1r.config.recipe import resolve

    with pytest.raises(UserError, match=r"verify.backend.*processes.*ray"):
        resolve({"name": "x"}, {"verify.backend": "rey"}, "here")
