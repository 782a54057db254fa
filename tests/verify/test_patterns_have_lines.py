"""No expression that reads mathematics or a choice without a line in the tables that it matches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

ELSEWHERE = {
    r"mathematics/tiers.py: ([-+]?)": "`parse_number`, which voting and controls call, no verdict: test_math_verifier",
}
"""Expressions whose examples stand in another test. Nothing new belongs here: a line in a table takes its place."""


@pytest.mark.slow
def test_each_expression_has_a_line_in_the_tables() -> None:
    script = HERE / "counted_patterns.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=300)
    matched = json.loads(done.stdout)
    assert len(matched) > 300, "the expressions are not counted any more"
    without = [name for name, is_matched in matched.items() if not is_matched]
    new = [name for name in without if not any(name.startswith(known) for known in ELSEWHERE)]
    assert not new, "add a line to a table in tests/verify/math or tests/verify/choice that each of these matches"
    unused = [known for known in ELSEWHERE if not any(name.startswith(known) for name in without)]
    assert not unused, "these have a line now"
