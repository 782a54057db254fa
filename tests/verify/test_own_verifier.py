"""Verifiers that users bring: a decorated function in a file of theirs."""

import subprocess
import sys
from pathlib import Path

import pytest

from h1r.common import plugins
from h1r.config import ControlsSection
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.scaling.answers import extract_for
from h1r.verify import Verifier, VerifierPool, register, require, verifier
from h1r.verify.controls import controls_of, examine
from h1r.verify.registry import as_verdict

OWN = """
import os
from h1r.verify import verifier

@verifier("{name}", answer_form="Answer: %s", confined={confined})
def grade(problem, answer):
    if "escape" in answer:
        return float(os.path.exists("/etc/passwd") and bool(open("/etc/passwd").read()))
    return float(answer.rpartition("Answer: ")[2].strip() == problem.answer)
"""


def loaded(folder: Path, name: str, text: str = OWN, confined: bool = True) -> str:
    path = folder / f"{name}.py"
    path.write_text(text.format(name=name, confined=confined))
    plugins.load_plugins([str(path)])
    return str(path)


def test_a_decorated_function_of_a_file_grades_in_workers(tmp_path: Path) -> None:
    loaded(tmp_path, "own-suffix")
    problem = Problem("p", "?", "4", "own-suffix")
    with VerifierPool() as pool:
        found = pool.verify_many([problem] * 2, ["Answer: 4", "Answer: 5"])
    assert [verdict.reward for verdict in found] == [1.0, 0.0]
    assert [verdict.error for verdict in found] == [None, None]


@pytest.mark.skipif(sys.platform != "linux", reason="confinement is Linux's")
def test_it_has_no_files_unless_it_says_that_it_needs_them(tmp_path: Path) -> None:
    for confined in (True, False):
        name = f"own-confined-{confined}"
        loaded(tmp_path, name, confined=confined)
        with VerifierPool() as pool:
            verdict = pool.verify_many([Problem("p", "?", "4", name)], ["escape"])[0]
        assert verdict.reward == (0.0 if confined else 1.0)


def test_a_file_that_fails_in_a_worker_is_one_sentence(tmp_path: Path) -> None:
    path = loaded(tmp_path, "own-broken")
    Path(path).write_text("import no_such_module_here\n")
    with VerifierPool() as pool, pytest.raises(UserError, match="verifier `own-broken` cannot be loaded"):
        pool.verify_many([Problem("p", "?", "4", "own-broken")], ["4"])


def test_a_script_may_define_the_verifier_that_it_uses(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        OWN.format(name="own-script", confined=True)
        + "if __name__ == '__main__':\n"
        + "    from h1r.records import Problem\n    from h1r.verify import verify\n"
        + "    print(verify(Problem('p', '?', '4', 'own-script'), 'Answer: 4').reward)\n"
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "1.0", done.stderr


def test_what_other_processes_cannot_find_is_refused() -> None:
    def grade(problem: Problem, answer: str) -> float:
        return 1.0

    with pytest.raises(UserError, match=r"`.*grade` must be a function at the top of its module"):
        verifier("own-local")(grade)
    with pytest.raises(UserError, match="unknown verifier"):
        require("own-local")


def top_level(problem: Problem, answer: str) -> float:
    return float(answer == problem.answer)


def test_a_name_or_a_form_that_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="there is a verifier `math` already"):
        verifier("math")(top_level)
    with pytest.raises(UserError, match="write %s once"):
        verifier("own-form", answer_form="Answer:")(top_level)
    assert verifier("own-form")(top_level) is top_level


@pytest.mark.parametrize("found", [-0.1, 1.5, float("nan"), "1", None])
def test_only_rewards_from_0_to_1_are_verdicts(found: object) -> None:
    with pytest.raises(ValueError, match="a number from 0 to 1"):
        as_verdict(found)  # type: ignore[arg-type]
    assert as_verdict(0.25) == Verdict(0.25)
    assert as_verdict(True).reward == 1.0


def test_votes_read_an_answer_by_the_form_that_its_verifier_declares() -> None:
    verifier("own-form")(top_level)
    verifier("own-line", answer_form="Answer: %s.")(top_level)
    read = extract_for(Problem("p", "?", "4", "own-line"))
    assert read("I think </think> Answer: 3. No.\nAnswer: 4. Done.") == "4"
    assert read("<think> Answer: 3.") is None
    assert read("nothing") is None
    assert extract_for(Problem("p", "?", "4", "own-form"))(r"\boxed{4}") == "4"


def first_word(answer: str) -> str | None:
    return answer.split()[0]  # fails for an empty answer


def test_votes_read_an_answer_by_the_function_that_its_verifier_names() -> None:
    verifier("own-extract", extract=first_word)(top_level)
    read = extract_for(Problem("p", "?", "4", "own-extract"))
    assert read("4 it is") == "4"
    assert read("") is None


def pays_anything(problem: Problem, answer: str) -> float:
    return 1.0


def test_a_verifier_that_pays_everything_is_refused_by_the_controls() -> None:
    verifier("own-pays")(pays_anything)
    problems = [Problem(str(n), f"What is {n}+{n}?", str(2 * n), "own-pays") for n in range(1, 25)]
    found = examine(problems, lambda asked, _: [Verdict(1.0) for _ in asked], ControlsSection())
    assert all(found.refusals)


def test_what_a_verifier_declares_decides_not_its_name() -> None:
    programs = Verifier("own-programs", "m:grade", answer_kind="program", answer_form="```\n%s\n```")
    letters = Verifier("own-letters", "m:grade", answer_kind="letters", compares=True)
    for one in (programs, letters):
        register(one)
    names = [control.name for control in controls_of(Problem("p", "?", "B", "own-letters"), [])]
    assert "letter A" in names
    tests = {"tests": {"inputs": ["1"], "outputs": ["1"]}}
    names = [control.name for control in controls_of(Problem("p", "?", "", "own-programs", metadata=tests), [])]
    assert "an empty program" in names
    assert letters.may_be_judged
    assert not programs.may_be_judged
    assert [require(name).may_be_judged for name in ("math", "choice", "code", "judge", "reasoning_gym")] == [
        True, True, False, False, False,
    ]  # fmt: skip
