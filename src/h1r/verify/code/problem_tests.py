"""The tests of a problem, read from the form that its data set has.

`parse_tests` tells the form by its keys and refuses what it cannot read; docs/internals/sandbox.md shows each form.
"""

from __future__ import annotations

from typing import Any

from h1r.verify.code.forms.assertions import assertions, test_text
from h1r.verify.code.forms.evalplus import evalplus
from h1r.verify.code.forms.given import Given
from h1r.verify.code.forms.packed import unpacked
from h1r.verify.code.forms.programs import columns, pairs
from h1r.verify.code.kinds import CallTests, CheckTests, Rule, StdinTests, Tests, TestsError, sampled, size

_WRAPPERS = ("test_cases", "tests", "input_output", "official_tests", "verification_info")
"""Keys under which a mapping holds the tests themselves, beside what is said of them."""


def parse_tests(tests: Any, metadata: dict[str, Any] | None = None) -> Tests:
    """The tests of a problem. `metadata` may hold the function's name, `prompt`, `tolerance` and more (`forms.given`).

    Its `public_test_cases`, which LiveCodeBench has in a column of their own, come before the others.
    `TestsError` for what is in no known form, is empty, or calls nothing of the tested program.
    """
    if not tests and isinstance(tests, list | dict | str | None):
        raise TestsError("no tests")
    try:
        known = dict(metadata or {})
        found = _parse(_joined(known.pop("public_test_cases", None), tests), known)
    except TestsError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise TestsError(f"tests in no known form ({type(error).__name__}: {error})") from None
    if not size(found):
        raise TestsError("no tests")
    if isinstance(found, CallTests) and found.expected is not None and len(found.expected) != size(found):
        raise TestsError(f"{size(found)} calls but {len(found.expected)} expected results")
    return found


def _joined(public: Any, private: Any) -> Any:
    """The tests of two columns as one list; those of one column as they are."""
    if not public:
        return private
    both = [unpacked(one) if isinstance(one, str) else one for one in (public, private)]
    if not all(isinstance(one, list) for one in both):
        raise TestsError("`public_test_cases` go with tests that are a list")
    return [*both[0], *both[1]]


def _parse(tests: Any, known: dict[str, Any]) -> Tests:
    for _ in range(4):  # texts within mappings within texts, as columns of tables have them
        if isinstance(tests, str):
            tests = unpacked(tests)
        if not isinstance(tests, dict):
            break
        known = {**known, **tests}
        inner = next((tests[key] for key in _WRAPPERS if isinstance(tests.get(key), (str, list, dict))), None)
        if inner is None or _is_test_code(inner):
            break
        tests = inner
    given = Given.read(known)
    if isinstance(tests, list):
        if all(isinstance(test, str) for test in tests):
            return assertions(tests, given)
        return pairs([dict(test) for test in tests], given)
    if "base_input" in tests:
        return evalplus(tests, given)
    if "functional" in tests:
        return assertions(test_text(tests), given, is_leetcode=True)
    found = columns(tests)
    if found is not None:
        return pairs(found, given)
    return assertions(test_text(tests), given)


def _is_test_code(inner: Any) -> bool:
    """Whether what stands under a key is test code, and no list of pairs or packed text."""
    if isinstance(inner, list):
        return all(isinstance(test, str) for test in inner)
    return isinstance(inner, str) and any(word in inner for word in ("assert", "def ", "import "))


__all__ = ["CallTests", "CheckTests", "Rule", "StdinTests", "Tests", "TestsError", "parse_tests", "sampled", "size"]
