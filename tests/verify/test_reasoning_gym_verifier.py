import contextlib
import dataclasses
import inspect
import json
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS

from h1r.mathematics.value import same_value
from h1r.records import Problem
from h1r.verify import VerifierPool, reference_scores
from h1r.verify.reasoning_gym import grade, score
from h1r.verify.reasoning_gym.formula import derivative, numbers_of, read_formula, value_of
from h1r.verify.reasoning_gym.grade import _EVALUATION, EVALUATES_ITS_OWN, evaluates, is_inert
from h1r.verify.reasoning_gym.plain import BY_DEFAULT, quick
from h1r.verify.reasoning_gym.scorers import OWN
from machine import slowness

FAMILIES = ["chain_sum", "countdown", "spell_backward", "knights_knaves", "polynomial_multiplication", "binary_matrix"]
ALL_FAMILIES = sorted(set(DATASETS) - {"composite"})
WITHOUT_REFERENCE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Their items hold no answer, or an example of one."""


def items(family: str, count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Items as they come back from a file."""
    return [
        json.loads(json.dumps(item, default=str))
        for item in reasoning_gym.create_dataset(family, size=count, seed=seed)
    ]


def problems(family: str, count: int = 4) -> list[Problem]:
    return [
        Problem(f"{family}{n}", e["question"], str(e["answer"]), "reasoning_gym", family, metadata={"entry": e})
        for n, e in enumerate(items(family, count))
    ]


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(time_limit_s=3.0) as pool:
        yield pool


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_answers_score(pool, family):
    assert all(reference_scores(problem, pool) for problem in problems(family))


@pytest.mark.parametrize("family", sorted({*BY_DEFAULT, "chain_sum", "spell_backward"}))
def test_what_a_comparison_decides_is_what_the_scorer_says(family):
    if family in BY_DEFAULT:
        assert DATASETS[family][0].score_answer is ProceduralDataset.score_answer
        assert not evaluates(family)
    decided = 0
    for problem in problems(family, 3):
        right = problem.answer
        texts = [
            *(right, right.upper(), f" {right}", f"${right}$", f"{right}{right}", right[:-1], right[::-1]),
            *("", "0", "nan", "1,000", "-1", "1e3", "\u0661", "x" * 300),
            *(f"+0{right}.00", f"{right}.5", f"so {right} it is"),
        ]
        for text in texts:
            found = quick(problem, rf"\boxed{{{text}}}")
            if found is not None:
                decided += 1
                assert found == grade(problem, rf"\boxed{{{text}}}"), text
    assert decided > 12
    assert quick(problem, "no box") is None
    assert quick(dataclasses.replace(problem, metadata={}), r"\boxed{1}") is None


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_answers_do_not_score(pool, family):
    verdicts = pool.verify_many(problems(family), ["\\boxed{nonsense}"] * 4)
    assert [verdict.reward for verdict in verdicts] == [0.0] * 4


@pytest.mark.parametrize("family", ["arc_agi", "rearc"])
def test_grids_that_have_been_through_json_are_graded(pool, family):
    for problem in problems(family, 2):
        grid = problem.answer.splitlines()
        wrong = "\n".join([*grid[:-1], grid[-1][:-1] + str((int(grid[-1][-1]) + 1) % 10)])
        found = pool.verify_many([problem] * 2, [f"\\boxed{{{problem.answer}}}", f"\\boxed{{{wrong}}}"])
        assert [verdict.reward for verdict in found] == [1.0, 0.0]


def test_partial_credit_is_a_part_and_no_reward(pool):
    (problem,) = problems("spell_backward", 1)
    (verdict,) = pool.verify_many([problem], [f"\\boxed{{{problem.answer[:-1]}}}"])
    assert verdict.reward == 0.0
    assert 0 < verdict.parts["score"] < 1


def test_another_right_answer_scores(pool):
    (problem,) = problems("countdown", 1)
    assert pool.verify_many([problem], [f"\\boxed{{({problem.answer})+0*0}}"])[0].reward == 0.0
    assert pool.verify_many([problem], [f"\\boxed{{({problem.answer})}}"])[0].reward == 1.0


def test_text_around_an_answer_is_typesetting(pool):
    (problem,) = problems("knights_knaves", 1)
    assert pool.verify_many([problem], [f"\\boxed{{\\text{{{problem.answer}}}}}"])[0].reward == 1.0


def test_a_scorer_that_raises_costs_the_reward_only(pool):
    (problem,) = problems("prime_factorization", 1)
    verdict = pool.verify_many([problem], ["\\boxed{not a number}"])[0]
    assert (verdict.reward, verdict.reason) == (0.0, "crash")
    assert verdict.error


def test_problem_without_its_entry_is_an_error(pool):
    verdict = pool.verify_many([Problem("p", "", "5", "reasoning_gym")], ["\\boxed{5}"])[0]
    assert (verdict.reward, verdict.reason) == (0.0, "unscored")
    assert "metadata.entry" in (verdict.error or "")


def test_every_family_whose_scorer_could_evaluate_an_answer_has_been_read():
    """The scorers' modules name no way to evaluate, or are ours, or are known to evaluate what is theirs only."""
    naming = {
        family
        for family in ALL_FAMILIES
        if _EVALUATION.search(inspect.getsource(sys.modules[DATASETS[family][0].__module__]))
    }
    assert naming - set(OWN) <= EVALUATES_ITS_OWN
    assert not any(evaluates(family) for family in ALL_FAMILIES if family not in OWN)


def test_a_scorer_that_evaluates_sees_numbers_and_lists_of_them_only():
    assert all(map(is_inert, ("5", "-1.5", "[[0, 1], [1, 0]]", "1 2\n3 4", "(1, 2)")))
    assert not any(map(is_inert, ("f(1)", "2**9", "x", "'a'", "１", "[1].x", "1_0", "9*9", "5!", "\uff07", "{1}")))


def attempts(mark: str) -> list[str]:
    """Ways to have an `eval`, or sympy's, make the folder `mark`."""
    code = f"__import__('os').mkdir({mark!r})"
    escaped = "".join(f"\\x{ord(letter):02x}" for letter in code)
    octal = "".join(f"\\{ord(letter):03o}" for letter in code)
    fullwidth = code.translate({ord("'"): "\uff07", ord('"'): "\uff02", ord("("): "\uff08", ord("_"): "\uff3f"})
    return [
        code, f"[{code}]", f"({code})", f"[[{code}]]", f"sin('{escaped}')", f"sin(\uff07{escaped}\uff07)",
        f"sin(\uff02{octal}\uff02)", f"sympify('{escaped}')", fullwidth, f"x + sin(\uff07{escaped}\uff07)",
        f"[C['{escaped}'] for C._\uff3fclass_getitem_\uff3f in [eval]]",
        f"().__class__.__base__.__subclasses__()[0] and {code}", f"[x for x in [1] if {code}]", f"(lambda: {code})()",
        f"5! + sin('{escaped}')", f"eval('{escaped}')", f"ｅｘｅｃ('{escaped}')", f"f\"{{{code}}}\"", f"{{1: {code}}}",
        f"1 if {code} else 2", f"x.subs(x, {code})", f"Symbol('{escaped}')", f"E**sin('{escaped}')",
        f"\\sin('{escaped}')",
    ]  # fmt: skip


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_no_family_executes_an_answer_or_pays_for_one(family, tmp_path):
    """In this process, without any confinement: not even a scorer that gets the text as it is may run it."""
    mark = tmp_path / "reached"
    (item,) = items(family, 1)
    item.setdefault("metadata", {}).setdefault("source_dataset", family)
    for answer in attempts(str(mark)):
        try:
            found = score(family, answer, item)
        except Exception:
            found = 0.0
        assert not mark.exists(), answer
        assert (found or 0.0) < 1.0, answer


def test_the_attempts_would_run_in_the_librarys_own_scorers(tmp_path):
    reached = set()
    for family in OWN:
        (item,) = items(family, 1)
        for answer in attempts(str(tmp_path / "reached")):
            with contextlib.suppress(BaseException):
                reasoning_gym.get_score_answer_fn(family)(answer=answer, entry=item)
            if (tmp_path / "reached").exists():
                (tmp_path / "reached").rmdir()
                reached.add(family)
    assert {"countdown", "puzzle24", "simple_integration", "binary_matrix", "n_queens", "string_insertion"} <= reached


@pytest.mark.parametrize("family", sorted(set(ALL_FAMILIES) - WITHOUT_REFERENCE))
def test_a_reference_of_every_family_scores(family):
    found = [(item["answer"], score(family, str(item["answer"]), item)) for item in items(family, 3)]
    assert [answer for answer, value in found if (value or 0.0) < 1.0 and "Integral" not in answer] == []


CONTROLS = ["0", "1", "-1", "nan", "-nan", "inf", "-inf", "1e400", "nonsense", "None", "[]", "()", "x", "C",
            "24", "1*2*3*4", "nan+nani", "nan + nan*j", "zoo", "oo", "1/0", "0.0", "A and B", ",", "12+12"]  # fmt: skip


@pytest.mark.parametrize("family", sorted(OWN))
def test_no_constant_wins_in_a_family_with_a_scorer_of_ours(family):
    several = items(family, 25, seed=11)
    for control in CONTROLS:
        paid = [item["answer"] for item in several if score(family, control, item) == 1.0]
        same = [answer for answer in paid if control.strip("0.") == str(answer).strip("0.")]
        assert paid == same, (control, paid)


@pytest.mark.parametrize("family", ["puzzle24", "countdown"])
def test_the_answer_to_other_numbers_earns_nothing(family):
    first, *others = items(family, 25, seed=5)
    assert [score(family, str(other["answer"]), first) for other in others] == [0.0] * 24


def cases() -> list[Any]:
    """Answers, and what the scorer of ours gives them: 1, 0, or null for what it cannot read."""
    text = (Path(__file__).parent / "reasoning_gym_answers.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [pytest.param(row, id=f"{row['family']}: {row['answer'][:40]!a}") for row in rows]


@pytest.mark.parametrize("row", cases())
def test_a_scorer_of_ours_says_what_the_table_says(row):
    assert score(row["family"], row["answer"], {"metadata": {}, **row["item"]}) == row["score"]


NAMES = ["sin", "cos", "exp", "sqrt", "log", "atan"]
FORMULAS = st.recursive(
    st.one_of(st.integers(1, 9).map(str), st.sampled_from(["x", "C"])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"),
        st.tuples(st.sampled_from(NAMES), inner).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(inner, st.integers(1, 3)).map(lambda parts: f"({parts[0]})**{parts[1]}"),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(FORMULAS)
def test_derivatives_are_those_of_sympy(text):
    import sympy

    node = read_formula(text)
    assert node is not None
    slope = derivative(node, "x")
    assert slope is not None
    x, constant = sympy.symbols("x C")
    expected = sympy.diff(sympy.parse_expr(text, local_dict={"C": constant}), x)
    value = sympy.N(expected.subs({x: sympy.Rational(13, 7), constant: 2}), 30)
    if value.is_real and 1e-6 < abs(value) < 1e12:
        point = {"x": ("num", Fraction(13, 7)), "C": ("num", Fraction(2))}
        number = ("num", Fraction(str(value)))
        assert same_value(placed(slope, point), number, Fraction(10**9), Fraction(1, 10**6)) is not False


def placed(node: Any, point: dict[str, Any]) -> Any:
    """A tree with trees in place of its unknowns."""
    if node[0] == "var":
        return point[node[1]]
    return tuple(placed(part, point) if isinstance(part, tuple) else part for part in node)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["1", "2", "3", "+", "-", "*", "/", "(", ")", " "]), max_size=14).map("".join))
def test_arithmetic_has_the_value_that_python_gives(text):
    node = read_formula(text)
    numbers = numbers_of(node) if node else None
    if node is None or numbers is None or any(sign in text for sign in ("**", "//")):
        return
    try:
        compile(text.strip(), "", "eval")
        expected = eval(text)
    except (SyntaxError, ZeroDivisionError, TypeError):
        return  # a product without a sign, which is ours to read; or no value
    found = value_of(node)
    assert found is not None
    assert abs(float(found) - expected) < 1e-9


def test_number_bomb_in_an_evaluated_answer_costs_nothing():
    (problem,) = problems("countdown", 1)
    start = time.process_time()
    for bomb in ("9**9**9**9", "9^9^9^9", "9" * 2_000, "(" * 1_900, "9!" * 500, "1/" * 900 + "1"):
        assert (score("countdown", bomb, problem.metadata["entry"]) or 0.0) < 1.0
    assert time.process_time() - start < 2.0 * slowness()
