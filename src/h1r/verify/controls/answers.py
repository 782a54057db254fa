r"""Which controls a problem gets, by its verifier: answers that no honest grader pays, stated as an answer is stated.

    every scorer   0, 1, nan, inf, the empty answer, `nonsense`, another item's answer, a constant in the shape of the
                   reference (each number 0, or 1), the last formulas of the question; where the reference is an
                   expression of numbers whose value the question states: that value, and that value written so that a
                   search for numbers misses it, beside the numbers that were to be used. No formulas where the problem
                   takes any form, and none that is one number, which may be the answer in another notation
    choice         every other letter, all letters, the empty answer, `nonsense`, a sentence with the article A first
    code           programs that solve nothing (`programs`)
    instructions   the empty answer. `nonsense` can follow instructions ("no commas"), so that it refuses no item; a
                   family that it satisfies mostly is refused as one where a constant wins
    judge          none unless asked for: they cost the server as many requests as answers do

What is the reference after all (`plain.same_answer`) is no control for that item.
"""

from __future__ import annotations

import ast
import hashlib
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from h1r.common import syntax
from h1r.mathematics.question import question_formulas
from h1r.records import Problem
from h1r.verify.choice.options import options_of, reference_of
from h1r.verify.controls.plain import same_answer
from h1r.verify.controls.programs import program_controls, program_reference
from h1r.verify.registry import Verifier, require

ANOTHER = "another item's answer"
NONSENSE = "nonsense"
LETTER = "letter "
CONSTANTS = {"0": "0", "1": "1", "nan": "nan", "inf": "inf", "empty": "", NONSENSE: "nonsense"}
"""Name -> answer: the same for every item, so that a family's share of them can be told."""
ARTICLE = "A closer look at this is needed before anything can be said."
DEFAULT_LETTERS = 4
"""Options of a problem that does not say how many it has."""
MAX_FORMULAS = 2
MAX_EXPRESSION_CHARS = 400
MAX_POWER = 64
_NUMBERS = re.compile(r"\d++(?:\.\d++)?+")
_ONE_NUMBER = re.compile(r"[-+]?[\d.,]++(?:e[-+]?\d++)?+", re.IGNORECASE)
_LETTERS = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")


@dataclass(frozen=True, slots=True)
class Control:
    """An answer that must not earn: its name, the answer, and the response that states it.

    `is_reference`: it equals the reference of this item, so that it may earn and need not be asked. `may_earn`: it can
    be right for a single item, and counts in the shares of the family alone.
    """

    name: str
    answer: str
    response: str
    is_reference: bool = False
    may_earn: bool = False


def reference_text(problem: Problem) -> str:
    r"""The response that gives the reference as the problem's verifier wants it stated; empty where there is none.

    For code: the solution that the metadata has.
    """
    if not problem.verifier:
        return ""
    verifier = require(problem.verifier)
    if verifier.answer_kind == "program" and "tests" in problem.metadata:
        return program_reference(problem)
    if verifier.answer_form is None or not problem.answer.strip():
        return ""
    return verifier.answer_form % problem.answer


NO_ANSWER = frozenset({"", "nan", "null", "n/a"})
"""What stands in data for an answer that is not there, in lower case."""


def lacks_reference(problem: Problem) -> bool:
    """Whether the problem's verifier compares with a reference answer, or runs tests, and there is none."""
    verifier = require(problem.verifier)
    if verifier.answer_kind == "program" and problem.metadata.get("tests"):
        return False
    return verifier.answer_form is not None and problem.answer.strip().lower() in NO_ANSWER


def named_option(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that a reference names, in any of the forms that `choice` reads; None where it names
    none, or several."""
    letters = reference_of(answer, options_of(list(options)))
    return next(iter(letters)) if letters is not None and len(letters) == 1 else None


def controls_of(problem: Problem, others: Sequence[str], judge: bool = False) -> list[Control]:
    """The controls of a problem. `others` are reference answers of other items of its family, the nearest first.

    `judge`: whether a language model is asked too. `UserError` for an unknown verifier.
    """
    verifier = require(problem.verifier)
    if verifier.answer_kind == "program":
        return [Control(name, code, response) for name, code, response in program_controls(problem)]
    if verifier.needs_judge and not judge:
        return []
    if verifier.answer_form is None:
        return [Control("empty", "", ""), Control(NONSENSE, "nonsense", "nonsense", may_earn=True)]
    if verifier.answer_kind == "letters":
        return _choice_controls(problem)
    return _answer_controls(verifier, problem, others)


def chosen(controls: Sequence[Control], problem_id: str, count: int) -> list[Control]:
    """`count` of the controls, in their order; which ones is a function of the problem's id. 0: all."""
    if not count or len(controls) <= count:
        return list(controls)
    drawn = sorted(controls, key=lambda one: hashlib.blake2b(f"{problem_id}\0{one.name}".encode()).digest())
    names = {control.name for control in drawn[:count]}
    return [control for control in controls if control.name in names]


def stated(verifier: Verifier, problem: Problem, name: str, answer: str) -> Control:
    """A control that states `answer`."""
    response = verifier.answer_form % answer if verifier.answer_form else answer
    return Control(name, answer, response, same_answer(answer, problem.answer))


def _answer_controls(verifier: Verifier, problem: Problem, others: Sequence[str]) -> list[Control]:
    given = list(CONSTANTS.items())
    if others:
        given.append((ANOTHER, others[0]))
    given += _shapes(problem.answer)
    may_restate = problem.metadata.get("form") == "any"
    formulas = (
        []
        if may_restate
        else [text for text in question_formulas(problem.question) if not _ONE_NUMBER.fullmatch(text)][-MAX_FORMULAS:]
    )
    given += [(f"formula {number} from the end of the question", text) for number, text in enumerate(formulas[::-1], 1)]
    if verifier.answer_kind != "value":
        given += _hidden_numbers(problem)
    found = [stated(verifier, problem, name, answer) for name, answer in given]
    kept: dict[str, Control] = {}
    for control in found:
        kept.setdefault(control.answer, control)
    return [*kept.values(), Control("no answer at all", "", "")]


def _shapes(reference: str) -> list[tuple[str, str]]:
    """The reference with every number 0, and with every number 1; nothing for a single number."""
    zeros, ones = (_NUMBERS.sub(digit, reference) for digit in "01")
    return (
        [] if zeros.strip() in ("0", "-0", reference) else [("zeros in its shape", zeros), ("ones in its shape", ones)]
    )


def _hidden_numbers(problem: Problem) -> list[tuple[str, str]]:
    """For a reference that is an expression of three integers or more, and whose value the question states.

    Such items ask for an expression that uses given numbers. The value is nothing but the question, and neither is
    `0e0*(2+7+9)+18e0`, where a scorer that searches for whole numbers sees 2, 7 and 9.
    """
    value = _value_of(problem.answer)
    if value is None or value.denominator != 1 or value < 0:
        return []
    if not re.search(rf"(?<![\d.]){value.numerator}(?![\d]|\.\d)", problem.question):
        return []
    numbers = re.findall(r"\d+", problem.answer)
    used = "+".join(numbers)
    return [
        ("the value that the question states", f"{value}"),
        ("its numbers unused, the value as 1e0", f"0e0*({used})+{value}e0"),
        ("its numbers unused, the value as 1_0", f"({used})*0x0+{'_'.join(str(value)) if value > 9 else f'{value}e0'}"),
    ]


def _value_of(expression: str) -> Fraction | None:
    """The value of an expression of at least three integers and + - * / **; None for any other text."""
    if len(expression) > MAX_EXPRESSION_CHARS or len(re.findall(r"\d+", expression)) < 3:
        return None
    try:
        return _evaluate(syntax.expression(expression.strip()))
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
        if isinstance(node.op, ast.Pow) and right.denominator == 1 and abs(right) <= MAX_POWER:
            return Fraction(left ** int(right))
    raise ValueError("no expression of integers")


def _choice_controls(problem: Problem) -> list[Control]:
    options = problem.metadata.get("options")
    texts = [str(option).strip() for option in options] if isinstance(options, list) else []
    count = len(texts) or (options if isinstance(options, int) else DEFAULT_LETTERS)
    letters = string.ascii_uppercase[:count]
    right = _right_letters(problem.answer.strip(), letters, texts)
    return [
        Control("empty", "", ""),
        Control(NONSENSE, "nonsense", r"\boxed{nonsense}"),
        Control("the article A", ARTICLE, ARTICLE),
        Control("all letters", ", ".join(letters), rf"\boxed{{{', '.join(letters)}}}", right == set(letters)),
        *(Control(f"{LETTER}{letter}", letter, rf"\boxed{{{letter}}}", letter in right) for letter in letters),
    ]


def _right_letters(answer: str, letters: str, texts: Sequence[str]) -> set[str]:
    """The letters that a reference names or gives the texts of; all of them where it does neither."""
    if answer in texts:
        return {letter for letter, option in zip(letters, texts, strict=False) if option == answer}
    if len(answer) == 1 and answer.upper() in letters:
        return {answer.upper()}
    named = set(_LETTERS.findall(answer)) & set(letters)
    if not named and answer.isalpha() and answer.isupper():
        named = set(answer) & set(letters)
    return named or set(letters)
