"""The counts of hostile inputs on docs/internals/attacks.md are those of the files that the tests read."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "internals" / "attacks.md").read_text(encoding="utf-8")


def count(name: str) -> int:
    """Inputs of a file of the sandbox's attacks; names in capitals are snippets that inputs share."""
    names = re.findall(r"^=== (.+)$", (TESTS / "sandbox" / "attacks" / name).read_text(encoding="utf-8"), re.MULTILINE)
    return sum(not name.isupper() for name in names)


def test_the_page_counts_the_attacks_on_the_sandbox() -> None:
    programs, functions, sources = (count(name) for name in ("programs.txt", "results.txt", "compilers.txt"))
    assert f"| {programs} programs, {functions} functions, {sources} sources |" in PAGE
    assert f"| {count('answers.txt')} answers |" in PAGE


def test_the_page_counts_the_requests_to_the_server() -> None:
    requests = (TESTS / "serve" / "hostile_requests.jsonl").read_text(encoding="utf-8").splitlines()
    assert f"| {len(requests)} requests to a real server |" in PAGE


def test_the_page_counts_the_lines_of_choice() -> None:
    lines = sum(
        bool(line.strip())
        for file in (TESTS / "verify" / "choice").glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    )
    assert lines >= 600
