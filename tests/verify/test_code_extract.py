"""The code of an answer, and its language."""

import time

import pytest

from h1r.verify.code.extract import Solution, detect_language, extract_code


def test_the_last_block_that_says_it_is_code_counts():
    answer = "First:\n```python\na = 1\n```\nBetter:\n```py\nb = 2\n```\nOutput:\n```text\n2\n```\n```\n2\n```"
    assert extract_code(answer) == Solution("b = 2\n", "python")


def test_an_untagged_block_counts_where_no_block_is_tagged():
    assert extract_code("So:\n```\nx = 1\n```\nand\n```\ny = 2\n```") == Solution("y = 2\n", None)


def test_a_wanted_language_leaves_out_blocks_of_another():
    answer = "```cpp\nint main() {}\n```\n```python\nprint(1)\n```"
    assert extract_code(answer, "cpp") == Solution("int main() {}\n", "cpp")
    assert extract_code("```java\nclass A {}\n```", "python") is None


def test_a_longer_fence_holds_a_shorter_one():
    answer = '````python\ntext = """\n```\n"""\n````'
    assert extract_code(answer) == Solution('text = """\n```\n"""\n', "python")


def test_an_indented_block_loses_its_indentation():
    assert (
        extract_code("1. Do\n   ```python\n   x = 1\n   if x:\n       y = 2\n   ```").code
        == "x = 1\nif x:\n    y = 2\n"
    )


def test_a_block_that_is_not_closed_is_no_code():
    assert extract_code("```python\nprint(1)\n") is None
    assert extract_code("```python\nprint(1)\n```\n```python\nprint(2)\n") is None


def test_code_whose_opening_fence_was_part_of_the_prompt():
    assert extract_code("def f():\n    return 1\n```") == Solution("def f():\n    return 1\n", "python")
    assert extract_code("def f():\n    return 1\n```\nThis works since ...") is None


def test_an_answer_without_a_fence_counts_if_it_begins_like_code():
    assert extract_code("import sys\nprint(1)").code == "import sys\nprint(1)"
    assert extract_code("The answer is print(1).") is None
    assert extract_code("    return x + 1").code == "    return x + 1"  # the body of the function that the prompt began
    assert extract_code("    I return x + 1.") is None
    assert extract_code("return x + 1") is None


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("def f(x):\n    return x", "python"),
        ("from math import pi\nprint(pi)", "python"),
        ("n = int(input())\nfor i in range(n):\n    print(i)", "python"),
        ("#include <bits/stdc++.h>\nusing namespace std;\nint main() { cout << 1; }", "cpp"),
        ("#include <cstdio>\nint main() { printf(\"1\"); }", "cpp"),
        ("#include <stdio.h>\nint main(void) { return 0; }", "c"),
        ("import java.util.*;\npublic class Main { public static void main(String[] a) {} }", "java"),
        ("const s = require('fs').readFileSync(0);\nconsole.log(1)", "javascript"),
        ("function f(x) {\n  return x\n}", "javascript"),
        ("package main\nimport \"fmt\"\nfunc main() {}", "go"),
        ("use std::io;\nfn main() {}", "rust"),
        ("#!/bin/bash\necho 1", "bash"),
        ("using System;\nclass P { static void Main() {} }", "csharp"),
        ("x = 1", None),
    ],
)  # fmt: skip
def test_code_shows_its_language(code, language):
    assert detect_language(code) == language
    assert extract_code(f"```\n{code}\n```").language == language


@pytest.mark.parametrize(
    "food",
    ["`" * 200_000, "```" * 100_000, "```\n" * 100_000, " " * 300_000 + "x", "a" * 1_000_000, "\n" * 500_000,
     "if " + ":" * 300_000 + "x", "def f(" * 100_000, "```\n" + ("import java" * 40 + "\n") * 5_000 + "```",
     "```\n" + (" " * 499 + "\n") * 1_000 + "```"],
)  # fmt: skip
def test_extraction_takes_linear_time(food):
    """In one of three tries: neighbours on a busy machine slow this process's own time, too, and what grows with the
    square takes minutes."""
    assert any(seconds_to_extract(food) < 2.0 for _ in range(3))


def seconds_to_extract(food: str) -> float:
    start = time.process_time()
    extract_code(food)
    return time.process_time() - start
