"""Numbers in sentences: none is followed by a plural that it may not be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from h1r.common.prose import counted, figures, listing, plural_of, size
from sources import statements

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "h1r"
COUNTED = """
    answer attempt benchmark byte character checkpoint choice column core document epoch example family file gpu group
    key layer line message model number point position problem process processor prompt question record reply request
    rollout row sample server shard source step string test thread token trace verdict word worker
""".split()  # noqa: SIM905 - a list to read
"""What the program counts."""
_PLURAL = re.compile(rf" (?:(?!(?:of|for|without|get|to|and|or|in)\b)[a-z-]+ )?({'|'.join(map(plural_of, COUNTED))})\b")
"""The plural right after a number, or after one adjective."""
_WHOLE = ("percent", "_percent", "counted", "plural")
"""Functions that give more than a number."""
_FOR_PROGRAMMERS = ("ValueError", "RuntimeError", "KeyError", "TypeError", "AssertionError", "IndexError")


def bare_plurals(source: str) -> Iterator[str]:
    """Each f-string in which a plural follows a value that may be 1. It may not where it is a constant of the code, has
    decimals, or is what others are counted out of ("3 of 9 rows"). What only a programmer reads is left out."""
    tree = ast.parse(source)
    raised = [node.exc for node in statements(tree) if isinstance(node, ast.Raise)]
    calls = [one for one in raised if isinstance(one, ast.Call) and ast.unparse(one.func) in _FOR_PROGRAMMERS]
    spared = {id(node) for call in calls for node in ast.walk(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in spared:
            yield from _bare(node)


def _bare(node: ast.JoinedStr) -> Iterator[str]:
    for before, value, text in zip([None, *node.values], node.values, node.values[1:], strict=False):
        if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
            continue
        found = _PLURAL.match(str(text.value))
        out_of = isinstance(before, ast.Constant) and str(before.value).endswith((" of ", "up to ", " x ", "than "))
        constant = isinstance(value.value, ast.Name) and value.value.id.isupper()
        said = isinstance(value.value, ast.Call) and ast.unparse(value.value.func) in _WHOLE
        form = "" if value.format_spec is None else ast.unparse(value.format_spec).removeprefix("f")
        decimals = "f" in form and ".0f" not in form
        if found and not (out_of or constant or said or decimals):
            yield f"{node.lineno}: {ast.unparse(value.value)}{found[0]}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_number_is_followed_by_a_plural_that_it_may_not_be(path: Path) -> None:
    assert list(bare_plurals(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.js")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_page_writes_one(path: Path) -> None:
    found = re.findall(rf"(?<! of )\$\{{(?!counted)[^{{}}]*\}}{_PLURAL.pattern}", path.read_text(encoding="utf-8"))
    assert found == []


def test_the_kind_is_found() -> None:
    assert list(bare_plurals('f"{len(rows)} rows"')) == ["1: len(rows) rows"]
    assert list(bare_plurals('f"{n:,} malformed lines are"')) == ["1: n malformed lines"]
    assert list(bare_plurals('f"{x:,.0f} tokens a second"')) == ["1: x tokens"]
    assert not list(bare_plurals('f"{counted(n, chr(0))} and {n} of {m} rows, {MOST} rows, {x:.1f} tokens"'))


def test_numbers_and_lists_in_sentences() -> None:
    assert [counted(n, "row") for n in (0, 1, 1234)] == ["0 rows", "1 row", "1,234 rows"]
    assert [counted(2, noun) for noun in ("reply", "process", "key")] == ["2 replies", "2 processes", "2 keys"]
    assert [listing(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_sizes_have_three_figures_and_never_a_thousand_and_more_of_a_unit() -> None:
    shown = {0: "0 bytes", 1: "1 byte", 1023.4: "1,023 bytes", 1023.9: "1 KiB", 2048: "2 KiB",
             1010 * 2**10: "1,010 KiB", 1023.9 * 2**10: "1 MiB",
             1.234 * 2**20: "1.23 MiB", 160 * 2**20: "160 MiB", 1.75 * 2**30: "1.75 GiB",
             3 * 2**40: "3 TiB", 5000 * 2**40: "5,000 TiB"}  # fmt: skip
    assert {number: size(number) for number in shown} == shown


def test_figures_are_never_a_power_of_ten() -> None:
    shown = {0.000054: "0.000054", 17.25: "17.2", 8704.4: "8,704", 999.6: "1,000", 0: "0", -1234: "-1,234", 100: "100"}
    assert {number: figures(number) for number in shown} == shown
    assert [figures(number, 4) for number in (12345.6, 1.23456, float("nan"))] == ["12,346", "1.235", "nan"]
