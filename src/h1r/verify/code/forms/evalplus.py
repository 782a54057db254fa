"""Inputs and a reference solution, as EvalPlus has them: what is expected is what the reference returns."""

from __future__ import annotations

from typing import Any, get_args

from h1r.verify.code.forms.given import Given
from h1r.verify.code.kinds import CallTests, Rule, TestsError


def evalplus(tests: dict[str, Any], given: Given) -> CallTests:
    arguments = [list(case) for case in [*tests["base_input"], *(tests.get("plus_input") or [])]]
    reference = tests.get("canonical_solution") or tests.get("reference")
    rule = tests.get("rule", "equal")
    if rule not in get_args(Rule):
        raise TestsError(f"no rule {rule!r}"[:100])
    return CallTests(
        given.required_entry(),
        arguments,
        expected=tests.get("expected"),
        reference=given.prompt + str(reference) if reference else None,
        setup=given.prompt,
        atol=float(tests.get("atol") or 0.0),
        tolerance=given.tolerance,
        rule=rule,
    )
