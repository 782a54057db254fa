r"""Real reference answers, changed: those that say the same must be equal to the reference, the others must not.

Unlike `references`, where both texts are the same, every pair here has to be read and compared. A change that happens
to keep the value is left out where its rule can see it; what remains is listed in full.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from h1r.mathematics.read import read
from h1r.mathematics.types import Opaque, Words
from h1r.records import Problem
from verification.common import Context, Reviewed
from verification.math import reference_answers

REVIEWED: Reviewed = {
    r"digit/a^{2m+n}=(a^{m})^{2}\cdot a^{n}=(2)^{2}\cdot (3)=4\cdot 3=12": (
        "policy",
        "a chain that begins with a name states its last side; the changed digit is in the middle of the chain",
    ),
}

_FRACTION = re.compile(r"\\frac\{(\d+)\}\{(\d+)\}")
_TUPLE = re.compile(r"\((-?\d+),\s*(-?\d+)\)")
_DIGIT = re.compile(r"(?<![\d_^.,{])[1-8](?![\d,]*\s*(?:\\overline|_))(?!\d*\.\d*0+\b)")


def same(answer: str) -> Iterator[tuple[str, str]]:
    """(rule, the answer written in another way)."""
    yield "dollars", f"${answer}$"
    yield "full stop", f"{answer}."
    yield "display style", rf"\displaystyle {answer}"
    if r"\frac" in answer:
        yield "dfrac", answer.replace(r"\frac", r"\dfrac")
    if "(" in answer and r"\(" not in answer and answer.count("(") == answer.count(")") and r"\left" not in answer:
        yield "left and right", answer.replace("(", r"\left(").replace(")", r"\right)")
    if (match := _FRACTION.fullmatch(answer)) and match[2] != "0":
        yield "slash", f"{match[1]}/{match[2]}"
        yield "doubled fraction", rf"\frac{{{2 * int(match[1])}}}{{{2 * int(match[2])}}}"
    if re.fullmatch(r"-?\d{1,8}", answer):
        yield "decimal point", f"{answer}.0"
        yield "named", f"x = {answer}"
        yield "sum", f"{answer}+1-1"
    if re.fullmatch(r"\d+\\sqrt\{\d+\}", answer):
        number, root = re.findall(r"\d+", answer)
        yield "under the root", rf"\sqrt{{{int(number) ** 2 * int(root)}}}"


def different(answer: str) -> Iterator[tuple[str, str]]:
    """(rule, an answer that is not this one)."""
    if match := _DIGIT.search(answer):
        yield "digit", f"{answer[: match.start()]}{int(match[0]) + 1}{answer[match.end() :]}"
    if re.fullmatch(r"[\d.,]+|\\frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\}", answer) and not re.match(r"[0.,]*(,|$)", answer):
        yield "sign", f"-{answer}"
        yield "square", f"({answer})^2" if answer.strip(".,") != "1" else f"2({answer})"
        yield "another unknown", f"{answer}x"
        yield "one more", f"{answer},{answer}"
        yield "an interval", f"[0,{answer})"
        yield "an equation", f"x = {answer} + 1"
        yield "a word", rf"\text{{not }} {answer}"
    if (match := _TUPLE.fullmatch(answer)) and match[1] != match[2]:
        yield "swapped", f"({match[2]},{match[1]})"
        yield "half open", f"[{match[1]},{match[2]})"
        yield "a set", rf"\{{{match[1]},{match[2]}\}}"
    for sign, other in ((r"\le ", "<"), (r"\ge ", ">"), ("<", r"\le "), (">", r"\ge "), (r"\infty)", "5)")):
        if sign in answer and rf"\{sign}" not in answer and (other != "5)" or answer.count(r"\infty") == 1):
            yield "border", answer.replace(sign, other, 1)
    if re.search(r"[a-z0-9}] ?\+ ?[a-z0-9\\]", answer) and "pm" not in answer and "," not in answer:
        yield "plus", re.sub(r"([a-z0-9}] ?)\+( ?[a-z0-9\\])", r"\1-\2", answer, count=1)


def perturbed(context: Context) -> dict[str, Any]:
    """By rule: how many pairs, how many with the wrong verdict, and these."""
    pairs: dict[tuple[str, str, str, bool], None] = {}
    names = ("math_test", "comp_math_24_25", "olympiadbench", "minerva", "omni_math_500", "numina_validation")
    for answers in (reference_answers()[name] for name in names):
        for answer in answers[:: 8 if context.quick else 1]:
            if isinstance(read(answer), Opaque | Words) or len(answer) > 200:
                continue
            pairs.update(dict.fromkeys((rule, answer, text, True) for rule, text in same(answer)))
            pairs.update(dict.fromkeys((rule, answer, text, False) for rule, text in different(answer)))
    owners = [Problem("", "", answer, "math") for _, answer, _, _ in pairs]
    verdicts = context.pool.verify_many(owners, [rf"\boxed{{{text}}}" for _, _, text, _ in pairs])
    back = [Problem("", "", text, "math") for _, _, text, _ in pairs]
    mirrored = context.pool.verify_many(back, [rf"\boxed{{{answer}}}" for _, answer, _, _ in pairs])
    rules: dict[str, dict[str, int]] = {}
    wrong = []
    for (rule, answer, text, equal), one, other in zip(pairs, verdicts, mirrored, strict=True):
        counts = rules.setdefault(rule, {"equal": int(equal), "pairs": 0, "wrong": 0})
        counts["pairs"] += 1
        if bool(one.reward) != equal or bool(other.reward) != equal:
            counts["wrong"] += 1
            right, why = REVIEWED.get(f"{rule}/{answer}", ("unreviewed", "nobody has looked at this one"))
            wrong.append(
                {"id": rule, "reference": answer, "answer": text, "recorded": equal, "right": right, "why": why}
            )
    asymmetric = sum(one.reward != other.reward for one, other in zip(verdicts, mirrored, strict=True))
    return {"pairs": len(pairs), "asymmetric": asymmetric, "rules": rules, "disagreements": wrong}


SECTIONS: dict[str, Callable[[Context], dict[str, Any]]] = {"perturbed": perturbed}
