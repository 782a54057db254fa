"""Benchmarks from files: what becomes of their rows, and a whole evaluation of a checkpoint that was never curated."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from h1r.cli import main
from h1r.cli.common import recipe_file
from h1r.config import BenchmarkSection, ControlsSection, EvalSection, load_recipe
from h1r.data.tokenizer import train_tokenizer
from h1r.errors import UserError
from h1r.evals.benchmarks import accepted, check_verifiers, load_benchmark, measured, settings
from h1r.models import build, save
from h1r.models.falcon_h1.config import preset
from h1r.verify import VerifierPool, require
from h1r.verify.judge import grade as judge

CHOICE = {"columns": {"answer": "answer"}, "verifier": "choice", "prompt": "Q: {question}\n{options}\nAnswer: X"}


def benchmark(path: Path, rows: list[dict[str, Any]], **keys: Any) -> BenchmarkSection:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return BenchmarkSection(**{"name": "b", "kind": "jsonl", "path": str(path), **keys})


def test_options_in_a_list_are_lettered_and_the_letter_is_the_reference(tmp_path: Path) -> None:
    rows = [{"question": "Which?", "options": ["one", "two", "three"], "answer": "C"}]
    (problem,) = load_benchmark(benchmark(tmp_path / "f.jsonl", rows, options=["options"], **CHOICE))
    assert problem.question == "Q: Which?\nA) one\nB) two\nC) three\nAnswer: X"
    assert problem.answer == "C"
    assert problem.metadata == {"options": ["one", "two", "three"]}


def test_options_in_columns_are_shuffled_the_same_way_every_time(tmp_path: Path) -> None:
    rows = [
        {"question": f"Which is it, {n}?", "answer": "", "right": "r", "w1": "x", "w2": "y", "w3": "z"}
        for n in range(40)
    ]
    section = benchmark(tmp_path / "f.jsonl", rows, options=["right", "w1", "w2", "w3"], **CHOICE)
    problems = load_benchmark(section)
    assert all(problem.metadata["options"]["ABCD".index(problem.answer)] == "r" for problem in problems)
    assert {problem.answer for problem in problems} == set("ABCD")
    assert problems == load_benchmark(section)


def test_metadata_goes_to_the_verifier_and_into_the_prompt(tmp_path: Path) -> None:
    rows = [
        {"question": "q1", "answer": "", "more": json.dumps({"name": "f"}), "code": "def f():", "cases": [1]},
        {"question": "q2", "answer": "", "more": "{}", "code": "", "cases": [2]},
    ]
    columns = {"tests": "cases", "func_name": "more.name?", "code": "code"}
    prompt = r"{question} \boxed{} {unknown} {code}"
    first, second = load_benchmark(benchmark(tmp_path / "f.jsonl", rows, metadata=columns, prompt=prompt))
    assert first.metadata == {"tests": [1], "func_name": "f", "code": "def f():"}
    assert second.metadata == {"tests": [2], "code": ""}
    assert first.question == r"q1 \boxed{} {unknown} def f():"


def test_rows_are_chosen_by_value_and_number(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{n}", "right": "1", "kind": "number" if n % 2 else "text", "set": n // 4} for n in range(12)
    ]
    chosen = {"columns": {"answer": "right"}, "without": {"kind": "text", "absent": "x"}, "only": {"set": "1"}}
    assert [p.question for p in load_benchmark(benchmark(tmp_path / "f.jsonl", rows, **chosen))] == ["q5", "q7"]
    section = benchmark(tmp_path / "f.jsonl", rows, limit=3, columns={"answer": "right"})
    assert [p.question for p in load_benchmark(section)] == ["q0", "q1", "q2"]


def test_unusable_rows_are_counted_and_a_benchmark_of_them_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"question": "Which?", "options": ["a", "b"], "answer": "A"}
    bad = {"question": "Which?", "options": "a or b", "answer": "A"}
    section = benchmark(tmp_path / "f.jsonl", [bad, good, bad], options=["options"], **CHOICE)
    assert len(load_benchmark(section)) == 1
    assert "2 rows cannot be used" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"`b` has no usable problem .*no list"):
        load_benchmark(benchmark(tmp_path / "f.jsonl", [bad], options=["options"], **CHOICE))
    with pytest.raises(UserError, match="neither an answer nor"):
        load_benchmark(benchmark(tmp_path / "f.jsonl", [{"question": "q"}]))
    for answer in ("E", "", "AB"):
        with pytest.raises(UserError, match="none of the options"):
            load_benchmark(benchmark(tmp_path / "f.jsonl", [{**good, "answer": answer}], options=["options"], **CHOICE))


def test_a_prompt_without_its_places_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no \{question\}"):
        BenchmarkSection(name="b", kind="jsonl", path="x", prompt="Which?")
    with pytest.raises(ValueError, match=r"both `options` and \{options\}"):
        BenchmarkSection(name="b", kind="jsonl", path="x", options=["options"])


def test_the_papers_benchmarks_have_its_numbers() -> None:
    """arXiv 2601.02346, section 4.1: n and longest answer."""
    recipe = load_recipe(recipe_file("h1r-7b-eval"))
    asked = {section.name: settings(section, recipe.eval) for section in recipe.eval.benchmarks}
    assert {name: (section.samples, section.max_tokens) for name, section in asked.items()} == {
        "AIME24": (16, 65536),
        "AIME25": (16, 65536),
        "HMMT25": (16, 65536),
        "AMO-Bench": (16, 65536),
        "MATH500": (1, 32768),
        "GPQA-Diamond": (5, 32768),
        "MMLU-Pro": (3, 32768),
        "LiveCodeBench-v6": (3, 65536),
        "IFBench": (1, 32768),
    }
    assert {(section.temperature, section.top_p) for section in asked.values()} == {(0.6, 0.95)}
    for section in recipe.eval.benchmarks:
        require(section.verifier)


def test_a_checkpoint_is_evaluated_without_curation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = train_tokenizer(["what is 3 plus 4 " * 4], 300)
    config = preset(
        "tiny", vocab_size=304, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    save(build(config, 0), tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"question": f"what is {n} plus 1", "options": ["1", "2"], "answer": "A"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(
        """
        name = "checkpoint"
        [model]
        checkpoint = "model"
        [chat]
        system_prompt = ""
        [eval]
        samples = 4
        max_tokens = 8
        [[eval.benchmarks]]
        name = "letters"
        kind = "jsonl"
        path = "rows.jsonl"
        verifier = "choice"
        samples = 2
        columns = { answer = "answer" }
        options = ["options"]
        prompt = "{question} {options}"
        """,
        encoding="utf-8",
    )
    with pytest.raises(SystemExit) as ended:
        main(["eval", "recipe.toml", "--out", "run", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)["eval_base"]
    assert list(found) == ["benchmarks"]
    assert found["benchmarks"]["letters"]["samples_per_problem"] == 2
    written = json.loads((tmp_path / "run/eval/benchmarks/base/letters.json").read_text(encoding="utf-8"))
    assert [outcome["samples"] for outcome in written["outcomes"]] == [2, 2, 2]
    with pytest.raises(SystemExit):
        main(["eval", "recipe.toml", "--out", "run", "--json"])
    again = json.loads(capsys.readouterr().out)["eval_base"]
    assert again == found  # its seconds too: nothing was asked again


def test_a_verifier_that_cannot_work_is_found_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(judge.SETTINGS_VARIABLE, raising=False)
    rows = [{"question": "Why?", "answer": "because"}]
    section = benchmark(tmp_path / "f.jsonl", rows, verifier="judge", columns={"answer": "answer"})
    with VerifierPool() as pool, pytest.raises(UserError, match=r"judge\.urls"):
        check_verifiers({"b": load_benchmark(section)}, pool.verify_many)


def test_problems_that_pay_for_nothing_are_unusable_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"How many are {n} and 5?", "answer": str(n + 5), "wide": {}} for n in range(500, 504)]
    rows[2]["wide"] = {"tolerance": 0.9999}
    metadata = {"tolerance": "wide.tolerance?"}
    problems = load_benchmark(
        benchmark(tmp_path / "f.jsonl", rows, columns={"answer": "answer"}, metadata=metadata, prompt="{question} Box.")
    )
    with VerifierPool(format_checks=False) as pool:

        def found(**keys: Any) -> tuple[list[str], list[str]]:
            asked, bad = accepted("b", problems, pool.verify_many, ControlsSection(**keys))
            return [problem.question for problem in asked], [row["id"] for row in bad]

        questions = [problem.question for problem in problems]
        assert found() == (questions[:2] + questions[3:], [problems[2].id])
        assert (
            f"benchmark b: 1 of 4 problems are unusable ({problems[2].id}: a control earns: " in capsys.readouterr().err
        )
        assert found(in_eval="report") == (questions, [problems[2].id])
        assert found(enabled=False) == (questions, [])
        with pytest.raises(UserError, match="1 of 4 problems are unusable"):
            found(in_eval="stop")
        with pytest.raises(UserError, match="1 of 1 problems are unusable"):
            accepted("b", problems[2:3], pool.verify_many, ControlsSection())


def test_a_benchmark_is_measured_again_when_anything_it_depends_on_changes(tmp_path: Path) -> None:
    rows = [{"question": "Why?", "answer": "because"}]
    problems = load_benchmark(benchmark(tmp_path / "f.jsonl", rows, columns={"answer": "answer"}))
    others = [dataclasses.replace(problems[0], answer="no")]
    runs: list[int] = []

    def measure() -> dict[str, Any]:
        runs.append(1)
        return {"pass_at_1": len(runs)}

    for asked in (problems, problems, others, others):
        measured(asked, EvalSection(samples=1), "w", tmp_path / "r.json", measure)
    measured(others, EvalSection(samples=2), "w", tmp_path / "r.json", measure)
    found = measured(others, EvalSection(samples=2), "x", tmp_path / "r.json", measure)
    assert (len(runs), found["pass_at_1"]) == (4, 4)


def test_two_benchmarks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two benchmarks are called `b`"):
        EvalSection(benchmarks=[BenchmarkSection(name="b", kind="jsonl", path="x")] * 2)
