import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from h1r.common.files import read_json
from h1r.config import Recipe
from h1r.data.curate.demo import curate, summary_table
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.records import Message, Problem, Sample, normalise_text, read_jsonl
from h1r.run.directory import Run

FAMILIES = ("chain_sum", "gcd", "aiw", "spell_backward")
OUTPUTS = ("held_out.jsonl", "problems_train.jsonl", "problems_rl.jsonl", "samples.jsonl", "dropped.jsonl")


def recipe(sources: list[dict[str, Any]], held_out: int, train: int, rl: int, **rest: Any) -> Recipe:
    problems = {"sources": sources, "held_out": held_out, "train": train, "rl": rl}
    return Recipe.model_validate({"name": "test", "problems": problems, "chat": {"system_prompt": ""}, **rest})


def generated(train: int = 60, **rest: Any) -> Recipe:
    return recipe([{"kind": "reasoning_gym", "family": name} for name in FAMILIES], 16, train, 20, **rest)


def run_in(path: Path, found: Recipe) -> tuple[dict[str, Any], Path]:
    return curate(found, Run.open(path, found)), path / "curate"


def file_source(path: Path, rows: list[dict[str, str] | str]) -> list[dict[str, Any]]:
    """A JSONL source of mathematical problems; a string is a raw line."""
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    (path / "problems.jsonl").write_text(text)
    source = {"kind": "jsonl", "path": str(path / "problems.jsonl"), "family": "sums"}
    return [{**source, "columns": {"solution": "solution"}}]


def row(n: int, answer: str | None = None, question: str | None = None) -> dict[str, str]:
    total = answer or str(2 * n + 1)
    return {
        "question": question or f"Basket number {n} holds {n} pears and {n + 1} plums, how many is that?",
        "answer": total,
        "solution": f"{n} + {n + 1} = {total}",
    }


def dropped_of(stage: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (stage / "dropped.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return run_in(tmp_path_factory.mktemp("run") / "a", generated())


def test_every_sample_has_thinking_and_a_boxed_answer_to_its_question(curated: tuple[dict[str, Any], Path]) -> None:
    _, stage = curated
    questions = {item.id: item.question for item in read_jsonl(stage / "problems_train.jsonl", Problem)}
    samples = list(read_jsonl(stage / "samples.jsonl", Sample))
    assert {sample.problem_id for sample in samples} == set(questions)
    for sample in samples:
        user, assistant = sample.messages
        assert (user.role, user.content) == ("user", questions[sample.problem_id])
        assert assistant.role == "assistant"
        assert assistant.thinking
        assert r"\boxed{" in assistant.content


def test_the_sets_of_problems_are_disjoint_by_content(curated: tuple[dict[str, Any], Path]) -> None:
    _, stage = curated
    names = ("held_out", "problems_train", "problems_rl")
    sets = [{normalise_text(item.question) for item in read_jsonl(stage / f"{name}.jsonl", Problem)} for name in names]
    assert len(sets[0] | sets[1] | sets[2]) == sum(map(len, sets)) == 16 + 60 + 20


def test_the_summary_says_what_the_files_hold(curated: tuple[dict[str, Any], Path]) -> None:
    summary, stage = curated
    samples = list(read_jsonl(stage / "samples.jsonl", Sample))
    assert read_json(stage / "summary.json") == summary
    assert summary["classes"] == dict(Counter(sample.difficulty_class for sample in samples))
    assert {name: entry["samples"] for name, entry in summary["families"].items()} == dict(
        Counter(sample.family for sample in samples)
    )
    assert summary["problems"] == {"held_out": 16, "train": 60, "rl": 20}
    assert summary["table"][-1]["out"] == len(samples)


def test_the_tokenizer_reads_the_samples(curated: tuple[dict[str, Any], Path]) -> None:
    _, stage = curated
    tokenizer = load_tokenizer(stage / "tokenizer")
    sample = next(iter(read_jsonl(stage / "samples.jsonl", Sample)))
    text = sample.messages[-1].thinking or ""
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_tokenizer_that_is_given_is_kept(curated: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, stage = curated
    given = load_tokenizer(stage / "tokenizer")
    found = generated(train=24, tokenizer={"path": str(stage / "tokenizer")})
    assert load_tokenizer(run_in(tmp_path / "b", found)[1] / "tokenizer").get_vocab() == given.get_vocab()


def test_the_same_recipe_gives_the_same_files(curated: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, stage = curated
    _, again = run_in(tmp_path / "b", generated())
    for name in (*OUTPUTS, "summary.json", "tokenizer/tokenizer.json"):
        assert (stage / name).read_bytes() == (again / name).read_bytes(), name


def test_the_traces_of_a_problem_do_not_depend_on_the_others(
    curated: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    def by_problem(stage: Path) -> dict[str, list[list[Message]]]:
        found: dict[str, list[list[Message]]] = {}
        for sample in read_jsonl(stage / "samples.jsonl", Sample):
            found.setdefault(sample.problem_id, []).append(sample.messages)
        return found

    few, many = by_problem(run_in(tmp_path / "b", generated(train=24))[1]), by_problem(curated[1])
    assert len(few) == 24
    assert few == {problem_id: many[problem_id] for problem_id in few}


def test_malformed_lines_are_counted_and_set_aside(tmp_path: Path) -> None:
    lines: list[dict[str, str] | str] = ["{not json", "", *(row(n) for n in range(12)), '{"question": "no answer"}']
    summary, stage = run_in(tmp_path / "run", recipe(file_source(tmp_path, lines), 2, 6, 4))
    rejected = [json.loads(line) for line in (stage / "rejected_lines.jsonl").read_text().splitlines()]
    assert summary["rejected_lines"] == len(rejected) == 3
    assert [item["line"] for item in rejected] == [1, 2, 15]
    assert all(item["path"].endswith("problems.jsonl") and item["why"] for item in rejected)
    assert rejected[0]["text"] == "{not json"
    assert summary["table"][0]["reasons"] == {"malformed line": 3}


def test_clean_input_leaves_no_file_of_rejected_lines(curated: tuple[dict[str, Any], Path]) -> None:
    assert not (curated[1] / "rejected_lines.jsonl").exists()


def test_every_drop_in_the_table_is_in_the_file(tmp_path: Path) -> None:
    lines: list[dict[str, str] | str] = ["broken", row(99, answer="{"), *(row(n) for n in range(14))]
    summary, stage = run_in(tmp_path / "run", recipe(file_source(tmp_path, lines), 2, 9, 4))
    counts = Counter((item["step"], item["reason"]) for item in dropped_of(stage))
    table = {(entry["step"], why): count for entry in summary["table"] for why, count in entry["reasons"].items()}
    assert dict(counts) == table
    assert counts["reference answers", "reference answer does not verify"] == 1
    assert all(entry["in"] - entry["out"] == sum(entry["reasons"].values()) for entry in summary["table"])


def test_a_held_out_question_in_another_typesetting_is_not_trained_on(tmp_path: Path) -> None:
    lines: list[dict[str, str] | str] = []
    for n in range(20):
        question = rf"Add ${n}+{n + 1}$ pears, please"
        lines += [row(n, question=question), row(n, question=question.replace("$", " $ ").replace("+", " + "))]
    summary, stage = run_in(tmp_path / "run", recipe(file_source(tmp_path, lines), 8, 20, 12))
    sums = {name: {item.answer for item in read_jsonl(stage / name, Problem)} for name in OUTPUTS[:3]}
    assert not sums["held_out.jsonl"] & (sums["problems_train.jsonl"] | sums["problems_rl.jsonl"])
    assert not sums["problems_train.jsonl"] & sums["problems_rl.jsonl"]
    reports = summary["contamination"]
    assert reports["sft"]["sums"]["exact"] + reports["rl"]["sums"]["exact"] > 0


def test_a_curation_that_leaves_nothing_names_the_step_and_keeps_its_records(tmp_path: Path) -> None:
    found = recipe(file_source(tmp_path, [row(n) for n in range(12)]), 2, 6, 4, curate={"max_chars": 3})
    with pytest.raises(UserError, match=r"no training sample: step `over-long` dropped most, 6 of 6 \(too long\)"):
        run_in(tmp_path / "run", found)
    stage = tmp_path / "run" / "curate"
    assert {item["step"] for item in dropped_of(stage)} == {"over-long"}
    assert len(list(read_jsonl(stage / "held_out.jsonl", Problem))) == 2
    assert not (stage / "summary.json").exists()


def test_a_late_failure_loses_nothing_that_was_written(tmp_path: Path) -> None:
    found = recipe(file_source(tmp_path, [row(n) for n in range(12)]), 2, 6, 4, tokenizer={"vocab_size": 5})
    with pytest.raises(UserError, match="vocab_size"):
        run_in(tmp_path / "run", found)
    stage = tmp_path / "run" / "curate"
    assert len(list(read_jsonl(stage / "samples.jsonl", Sample))) == 6
    assert not (stage / "summary.json").exists()
    assert "curate" in read_json(tmp_path / "run" / "stages.json")


def test_the_terminal_table_shows_steps_counts_and_reasons() -> None:
    rows = [{"step": "incorrect", "unit": "trace", "in": 1200, "out": 1100, "reasons": {"wrong answer": 100}}]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(summary_table({"table": rows}))
    shown = captured.get()
    assert all(part in shown for part in ("incorrect", "trace", "1,200", "1,100", "100 wrong answer"))
