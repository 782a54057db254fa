"""No expression that reads mathematics or a choice without a line in the tables that it matches."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

ELSEWHERE = {
    r"math/text.py: \d{1001}": "a thousand digits: test_bounded_work",
    r"math/symbolic.py: \^ ?\{[^{}]*\^": "towers that tier two is not asked: test_math_verifier",
    r"math/tiers.py: ([-+]?)": "`parse_number`, which curation calls: test_math_verifier",
    r"math/clean.py: [=<>,;]|\\(?:text|left": "TeX's infix \\over with a relation: test_math_verifier",
    r"math/units.py: [+=*^<>\\]": "a formula in the place of a word: test_math_value",
    "math/names.py: (?<![ ,;])[ ,;]*+": "a joint at the end of a part: test_math_value",
    "choice/options.py: [A-Z]{2,26}": "letters in brackets: test_choice",
    "choice/statements.py: [A-Z]": "the first letter of a statement: test_choice",
    r"choice/statements.py: \s{0,8}\.": "a stop behind a letter: test_choice",
}
"""Expressions whose examples stand in another test. Nothing new belongs here: a line in a table takes its place."""


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
