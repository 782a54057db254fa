"""The paper's benchmarks, each on a stand-in in its data set's own columns: what is asked, word for word, and the score
that a recorded model gets. Nothing is asked of the hub.

`prompts/NAME.txt` hold what is asked; `H1R_WRITE_PROMPTS=1` writes them anew, for a change that is meant.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_server import chat_server, says
from h1r.config import BenchmarkSection, JudgeSection, Recipe, find_recipe, load_recipe
from h1r.errors import UserError
from h1r.evals.benchmarks import load_benchmark
from h1r.evals.stages import evaluate_stage
from h1r.run.directory import Run
from h1r.verify import use_judge
from h1r.verify.judge import grade as judge
from h1r.verify.judge.official import OFFICIAL, official_messages

PROMPTS = Path(__file__).with_name("prompts")
PAPER = {section.name: section for section in load_recipe(find_recipe("h1r-7b-eval")).eval.benchmarks}
FORMAT = (
    "\nAfter solving the above problem, please output your final answer in the following format:\n"
    "### The final answer is: $\\boxed{<your answer>}$"
)
Row = dict[str, Any]


def packed(tests: list[dict[str, str]]) -> str:
    """Private tests as LiveCodeBench packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def stdin(given: str, expected: str) -> dict[str, str]:
    return {"input": given, "output": expected, "testtype": "stdin"}


def lcb(title: str, starter: str, public: list[dict[str, str]], private: list[dict[str, str]], func: str) -> Row:
    return {
        "question_title": title, "question_content": f"{title}: print or return twice the number.",
        "platform": "leetcode" if starter else "atcoder", "question_id": title, "contest_id": "c",
        "contest_date": "2025-02-01T00:00:00", "starter_code": starter, "difficulty": "easy",
        "public_test_cases": json.dumps(public), "private_test_cases": packed(private),
        "metadata": json.dumps({"func_name": func} if func else {}),
    }  # fmt: skip


def amo(number: int, kind: str, question: str, answer: str) -> Row:
    return {"question_id": number, "prompt": question + FORMAT, "solution": "s", "answer": answer, "answer_type": kind}


def gpqa(question: str, right: str) -> Row:
    wrong = {f"Incorrect Answer {n}": f"{right} and {n}" for n in (1, 2, 3)}
    return {"Question": question, "Correct Answer": right, **wrong, "High-level domain": "Physics", "Record ID": "r"}


def hle(number: int, question: str, answer: str, image: str = "") -> Row:
    return {
        "id": f"h{number}", "question": question, "image": image, "image_preview": None, "answer": answer,
        "answer_type": "exactMatch", "author_name": "a", "rationale": "r", "raw_subject": "s", "category": "Math",
        "canary": "c",
    }  # fmt: skip


_FUNC = "class Solution:\n    def twice(self, n: int) -> int:\n        "
_CALL = {"input": "3", "output": "6", "testtype": "functional"}
MATH = [("Take 2 and 3.", "5"), ("Take 2 from 3.", "1"), ("Halve 1.", r"\frac{1}{2}")]
ROWS: dict[str, list[Row]] = {
    "AIME24": [{"id": n, "problem": q, "solution": "s", "answer": a, "url": "u", "year": "2024"}
               for n, (q, a) in enumerate(MATH[:2])],
    "AIME25": [{"problem": q, "answer": a, "id": str(n)} for n, (q, a) in enumerate(MATH[:2])],
    "HMMT25": [{"problem_idx": n, "answer": a, "problem": q, "problem_type": ["Algebra"]}
               for n, (q, a) in enumerate(MATH)],
    "MATH500": [{"problem": q, "solution": "s", "answer": a, "subject": "Algebra", "level": 1, "unique_id": f"test/{n}"}
                for n, (q, a) in enumerate(MATH)],
    "AMO-Bench": [
        amo(1, "number", "What is pi, about?", r"$\boxed{3.14159265}$"),
        amo(2, "number", "What is e, about?", r"$\boxed{2.71828182}$"),
        amo(3, "set", "Which are they?", r"$\boxed{\{1, 2\}}$"),
        amo(5, "variable", "Give the sum for n.", r"$\boxed{(-1)^n n}$"),
        amo(37, "variable", "Give the product.", r"$\boxed{\frac{abc}{a+b+c}}$"),
        amo(8, "description", "Which n are they?", "All odd n."),
        amo(9, "description", "Which m are they?", "All even m."),
    ],
    "GPQA-Diamond": [gpqa("Which holds?", "water"), gpqa("Which falls?", "a stone")],
    "MMLU-Pro": [
        {"question_id": 70 + n, "question": f"Which is {n}?", "options": [str(k) for k in range(size)],
         "answer": "ABCDEFGHIJ"[n], "answer_index": n, "cot_content": "", "category": "math", "src": "s"}
        for n, size in ((3, 10), (9, 10), (1, 4))
    ],
    "HLE": [
        hle(1, "Who wrote it?", "Ada"), hle(2, "Where is it?", "Paris"), hle(3, "What is seen?", "x", "data:image/png"),
        hle(4, "How many?", "12"),
    ],
    "LiveCodeBench-v6": [
        lcb("stdin", "", [stdin("1\n", "2\n")], [stdin("4\n", "8\n"), stdin("5\n", "10\n")], ""),
        lcb("only-public-fails", "", [stdin("7\n", "14\n")], [stdin("4\n", "8\n")], ""),
        lcb("call", _FUNC, [_CALL], [{**_CALL, "input": "4", "output": "8"}], "twice"),
    ],
    "IFBench": [
        {"key": "1", "prompt": "Say it without a comma.", "instruction_id_list": ["punctuation:no_comma"],
         "kwargs": [{"N": None}]},
        {"key": "2", "prompt": "Say this without a comma.", "instruction_id_list": ["punctuation:no_comma"],
         "kwargs": [{"N": None}]},
    ],
}  # fmt: skip
_TWICE = "```python\nprint(2 * int(input()))\n```"
SAYS: dict[str, dict[str, str]] = {
    "AIME24": {"Take 2 and 3": r"\boxed{5}", "Take 2 from 3": r"\boxed{5}"},
    "AIME25": {"Take 2 and 3": r"\boxed{5}", "Take 2 from 3": r"It is 1."},
    "HMMT25": {"Take 2 and 3": r"\boxed{5}", "Take 2 from 3": r"\boxed{1}", "Halve 1": r"\boxed{0.5}"},
    "MATH500": {"Take 2 and 3": r"\boxed{6}", "Take 2 from 3": r"\boxed{1}", "Halve 1": r"\boxed{\dfrac12}"},
    "AMO-Bench": {
        "What is pi": "So.\n### The final answer is: $3.1416$",
        "What is e": "So.\n### The final answer is: $2.72$",
        "Which are they": "So.\n### The final answer is: $\\boxed{\\{2, 1\\}}$",
        "Give the sum": "So.\n### The final answer is: $\\boxed{S_n = n \\cos(\\pi n)}$",
        "Give the product": "So.\n### The final answer is: $\\boxed{\\frac{abc}{a+b}}$",
        "Which n are they": "So.\n### The final answer is: $\\boxed{n \\text{ is odd}}$",
        "Which m are they": "So.\n### The final answer is: $\\boxed{m \\text{ is odd}}$",
    },
    "GPQA-Diamond": {"Which holds": "It is water.\n\nAnswer: RIGHT", "Which falls": "Answer: WRONG"},
    "MMLU-Pro": {"Which is 3": "**Answer: D**", "Which is 9": "The answer is (J).", "Which is 1": "Answer: C"},
    "HLE": {
        "Who wrote it": "Explanation: read it.\nAnswer: Ada Lovelace\nConfidence: 90%",
        "Where is it": "Explanation: seen.\nAnswer: Lyon\nConfidence: 70%",
        "How many": "Explanation: counted.\nAnswer: a dozen\nConfidence: 20%",
    },
    "LiveCodeBench-v6": {
        "stdin:": _TWICE,
        "only-public-fails:": "```python\nn = int(input())\nprint(8 if n == 4 else 0)\n```",
        "call:": f"```python\n{_FUNC}return 2 * n\n```",
    },
    "IFBench": {"Say it": "It is said", "Say this": "This, it is, said"},
}
EXPECTED = {
    "AIME24": 1 / 2, "AIME25": 1 / 2, "HMMT25": 1.0, "MATH500": 2 / 3, "AMO-Bench": 4 / 7, "GPQA-Diamond": 1 / 2,
    "MMLU-Pro": 2 / 3, "HLE": 2 / 3, "LiveCodeBench-v6": 2 / 3, "IFBench": 1 / 2,
}  # fmt: skip


def stand_in(name: str, folder: Path) -> BenchmarkSection:
    """The paper's benchmark with a file of few rows in place of the data set."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]), encoding="utf-8")
    own = {"kind": "jsonl", "path": str(path), "subset": None, "expect": 0}
    return PAPER[name].model_copy(update=own)


def held(name: str, asked: str) -> None:
    kept = PROMPTS / f"{name}.txt"
    if os.environ.get("H1R_WRITE_PROMPTS"):
        kept.write_text(asked, encoding="utf-8")
    assert asked == kept.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(PAPER))
def test_what_a_benchmark_asks_is_held_word_for_word(name: str, tmp_path: Path) -> None:
    found = load_benchmark(stand_in(name, tmp_path))
    assert not found.unusable
    held(name, "\n========\n".join(problem.question for problem in found.problems) + "\n")


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_what_a_benchmarks_own_judge_is_asked_is_held_word_for_word(name: str) -> None:
    messages = official_messages(OFFICIAL[name], "Which city lies on it?", "Paris", "It is Rome.", 1000)
    held(f"judge-{name}", "\n========\n".join(f"{one['role']}: {one['content']}" for one in messages) + "\n")


def test_all_data_sets_are_pinned() -> None:
    assert all(re.fullmatch("[0-9a-f]{40}", section.revision or "") for section in PAPER.values())


def recorded(name: str) -> Callable[[Any, dict[str, Any]], None]:
    """The model: says what is recorded for the question that it is asked."""

    def answer(handler: Any, body: dict[str, Any]) -> None:
        prompt = body["messages"][-1]["content"]
        (said,) = [text for key, text in SAYS[name].items() if key in prompt]
        if name == "GPQA-Diamond":
            right = re.search(r"^([A-D])\) (?:water|a stone)$", prompt, re.MULTILINE)
            assert right
            said = said.replace("RIGHT", right[1]).replace("WRONG", "ABCD"["ABCD".index(right[1]) - 1])
        says(f"<think>Let me see.</think>{said}")(handler, body)

    return answer


VOTES = itertools.count(1)


def judging(handler: Any, body: dict[str, Any]) -> None:
    """The judge: knows what the questions of the stand-ins want, and one vote in five goes wrong."""
    prompt = body["messages"][-1]["content"]
    if "### Student Answer" in prompt:
        right = ("All odd n." in prompt) == (next(VOTES) % 5 != 0)
        says(f"### Conclusion: {'Correct' if right else 'Incorrect'}")(handler, body)
        return
    stated = re.search(r"Confidence: (\d+)%", prompt)
    right = "Answer: Lyon" not in prompt and "no answer" not in prompt
    fields = {"extracted_final_answer": "x", "reasoning": "r", "correct": "yes" if right else "no"}
    says(json.dumps({**fields, "confidence": int(stated[1]) if stated else 100}))(handler, body)


@pytest.fixture
def judge_url(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(judge.SETTINGS_VARIABLE, "{}")
    with chat_server(judging) as server:
        use_judge(JudgeSection(urls=[server.url], model="judge"))
        yield server.url


@pytest.mark.parametrize("name", sorted(PAPER))
def test_a_recorded_model_has_the_score_that_it_earns(name: str, tmp_path: Path, judge_url: str) -> None:
    with chat_server(recorded(name)) as server:
        found = evaluated(name, tmp_path, server.url)
    assert found["pass_at_1"] == pytest.approx(EXPECTED[name])
    assert (found["unscored"], found["error"], found["unusable"]) == (0.0, 0.0, [])
    # Three answers in one bin: 60% stated on average, two of three right.
    expected = abs((0.9 + 0.7 + 0.2) / 3 - 2 / 3) if name == "HLE" else None
    assert found["calibration_error"] == pytest.approx(expected)


def evaluated(name: str, folder: Path, url: str) -> dict[str, Any]:
    engine = {"kind": "endpoint", "url": url, "endpoint": {"model": "recorded"}}
    section = stand_in(name, folder).model_copy(update={"samples": 1})
    recipe = Recipe.model_validate({"name": "paper", "engine": engine, "eval": {"benchmarks": [section.model_dump()]}})
    found: dict[str, Any] = evaluate_stage(recipe, Run.open(folder / "run", recipe), "base")["benchmarks"][name]
    return found


def test_without_a_judge_the_benchmarks_that_need_one_are_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(judge.SETTINGS_VARIABLE, "{}")
    with chat_server(recorded("AMO-Bench")) as server:
        with pytest.raises(UserError, match=r"has to judge answers of AMO-Bench; set judge\.urls"):
            evaluated("AMO-Bench", tmp_path, server.url)
        assert not server.requests
