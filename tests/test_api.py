"""The public API: what `import h1r` offers."""

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import h1r

EXPORTED = {
    "Environment", "RolloutPipeline", "engine", "environment", "model", "tracker",
    "Message", "Problem", "Recipe", "Sample", "SamplingParams", "Trace", "UserError", "Verdict", "VerifierPool",
    "__version__", "curate", "evaluate", "load", "load_recipe", "loss", "open_engine", "parity", "read_jsonl",
    "report", "reward", "rl", "rollout", "save", "scaling_method", "sft", "solve", "verifier", "verify", "write_jsonl",
}  # fmt: skip


def test_exactly_these_names_are_exported() -> None:
    assert set(h1r.__all__) == EXPORTED
    assert len(h1r.__all__) == len(EXPORTED)
    assert set(dir(h1r)) >= EXPORTED


@pytest.mark.parametrize("name", sorted(EXPORTED - {"__version__"}))
def test_each_name_is_there_and_documented(name: str) -> None:
    found = getattr(h1r, name)
    assert callable(found)
    called = found.__dict__["_called"] if isinstance(found, ModuleType) else found
    assert inspect.getdoc(called)


def test_the_types_that_checkers_see_are_the_names_that_there_are() -> None:
    tree = inspect.getsource(h1r)
    assert all(f" as {name}" in tree or name == "__version__" for name in EXPORTED)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = h1r.nothing


def test_a_package_that_is_imported_can_still_be_called() -> None:
    code = (
        "import h1r, h1r.verify, h1r.report\n"
        "from h1r import Problem, verify\n"
        "from h1r.verify.registry import require\n"
        "problem = Problem('p', '?', '4', 'exact')\n"
        r"assert h1r.verify(problem, '\\boxed{4}').reward == verify(problem, '\\boxed{4}').reward == 1" + "\n"
        "assert h1r.verify.verify is not None and callable(h1r.report)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import h1r; h1r.__all__\n"
        "assert sorted(n for n in sys.modules if n.startswith('h1r')) == ['h1r'], sys.modules\n"
        "h1r.verifier, h1r.reward, h1r.loss, h1r.verify, h1r.Problem, h1r.load_recipe, h1r.__version__\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
