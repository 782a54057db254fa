import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from h1r.common.files import read_json
from h1r.config import Recipe
from h1r.data.curate.io.generated import GeneratedProblems
from h1r.data.curate.plan import curate, summary_table
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.records import Message, Problem, Sample, content_id, normalise_text, read_jsonl
from h1r.response.extract import last_boxed
from h1r.run.directory import Run

FAMILIES = ("chain_sum", "gcd", "aiw", "spell_backward")
OUTPUTS = ("held_out.jsonl", "problems_rl.jsonl", "samples.jsonl", "dropped.jsonl")


def recipe(sources: list[dict[str, Any]], held_out: int, train: int, rl: int, **rest: Any) -> Recipe:
    problems = {"held_out": held_out, "train": train, "rl": rl}
    tree = {"name": "test", "problems": problems, "chat": {"system_prompt": ""}, "verify": {"workers": 1}, **rest}
    return Recipe.model_validate({**tree, "corpus": {"sources": sources, "workers": 1, **rest.get("corpus", {})}})


def generated(train: int = 60, **rest: Any) -> Recipe:
    return recipe([{"kind": "reasoning_gym", "family": name} for name in FAMILIES], 16, train, 20, **rest)


def run_in(path: Path, found: Recipe) -> tuple[dict[str, Any], Path]:
    return curate(found, Run.open(path, found)), path / "curate"


def file_source(path: Path, rows: list[dict[str, str] | str]) -> list[dict[str, Any]]:
    """A JSONL source of mathematical problems; a string is a raw line."""
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    (path / "problems.jsonl").write_text(text)
    source = {"kind": "jsonl", "path": str(path / "problems.jsonl"), "name": "sums", "share": 1}
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


@pytest.fixture(scope="module")
def fewer(
    curated: tuple[dict[str, Any], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """Fewer of the same problems, all of them examined, with the tokenizer of `curated`."""
    given = {"path": str(curated[1] / "tokenizer")}
    found = generated(train=24, tokenizer=given, controls={"generated": 0})
    return run_in(tmp_path_factory.mktemp("run") / "b", found)


def test_every_sample_has_thinking_and_a_boxed_answer_to_its_question(curated: tuple[dict[str, Any], Path]) -> None:
    _, stage = curated
    samples = list(read_jsonl(stage / "samples.jsonl", Sample))
    assert len({sample.problem_id for sample in samples}) == 60
    for sample in samples:
        user, assistant = sample.messages
        assert user.role == "user"
        assert content_id(user.content) == sample.problem_id
        assert assistant.role == "assistant"
        assert assistant.thinking
        assert r"\boxed{" in assistant.content


def test_the_sets_of_problems_are_disjoint_by_content(curated: tuple[dict[str, Any], Path]) -> None:
    _, stage = curated
    names = ("held_out", "problems_rl")
    sets = [{normalise_text(item.question) for item in read_jsonl(stage / f"{name}.jsonl", Problem)} for name in names]
    sets.append({normalise_text(one.messages[0].content) for one in read_jsonl(stage / "samples.jsonl", Sample)})
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


def test_a_tokenizer_that_is_given_is_kept(
    curated: tuple[dict[str, Any], Path], fewer: tuple[dict[str, Any], Path]
) -> None:
    given, kept = (load_tokenizer(stage / "tokenizer") for _, stage in (curated, fewer))
    assert kept.get_vocab() == given.get_vocab()


def test_the_same_recipe_gives_the_same_files(curated: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, stage = curated
    _, again = run_in(tmp_path / "b", generated())
    for name in (*OUTPUTS, "summary.json", "tokenizer/tokenizer.json"):
        assert (stage / name).read_bytes() == (again / name).read_bytes(), name


def test_the_traces_of_a_problem_do_not_depend_on_the_others(
    curated: tuple[dict[str, Any], Path], fewer: tuple[dict[str, Any], Path]
) -> None:
    def by_problem(stage: Path) -> dict[str, list[list[Message]]]:
        found: dict[str, list[list[Message]]] = {}
        for sample in read_jsonl(stage / "samples.jsonl", Sample):
            found.setdefault(sample.problem_id, []).append(sample.messages)
        return found

    few, many = by_problem(fewer[1]), by_problem(curated[1])
    assert len(few) == 24
    assert few == {problem_id: many[problem_id] for problem_id in few}


def test_malformed_lines_are_counted_and_set_aside(tmp_path: Path) -> None:
    lines: list[dict[str, str] | str] = ["{not json", "", *(row(n) for n in range(12)), '{"question": "no answer"}']
    summary, stage = run_in(tmp_path / "run", recipe(file_source(tmp_path, lines), 2, 6, 4))
    rejected = [one for one in dropped_of(stage) if one["step"] == "read"]
    assert summary["rejected_lines"] == len(rejected) == 3
    assert [one["id"] for one in rejected] == [f"problems.jsonl:{number}" for number in (1, 2, 15)]
    assert rejected[0]["excerpt"].startswith("not JSON")
    assert "{not json" in rejected[0]["excerpt"]
    assert summary["table"][0]["reasons"] == {"malformed row": 3}


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
    held, pool = ({item.answer for item in read_jsonl(stage / name, Problem)} for name in OUTPUTS[:2])
    boxed = (last_boxed(one.messages[-1].content) for one in read_jsonl(stage / "samples.jsonl", Sample))
    taught = {answer for answer in boxed if answer}
    assert not held & (taught | pool)
    assert not taught & pool
    reports = summary["contamination"]
    assert reports["sft"]["sums"]["exact"] + reports["rl"]["sums"]["exact"] > 0


def test_a_curation_that_leaves_nothing_names_the_step_and_keeps_its_records(tmp_path: Path) -> None:
    found = recipe(file_source(tmp_path, [row(n) for n in range(12)]), 2, 6, 4, curate={"max_chars": 3})
    with pytest.raises(UserError, match=r"no training sample: step `over-long` dropped most, 6 of 6 \(too long\)"):
        run_in(tmp_path / "run", found)
    stage = tmp_path / "run" / "curate"
    assert {item["step"] for item in dropped_of(stage)} == {"over-long", "traces"}
    assert not (stage / "summary.json").exists()


def lengths_file(path: Path, **rest: Any) -> Recipe:
    """Problems whose solutions are of as many lengths."""
    rows: list[dict[str, str] | str] = [{**row(n), "solution": "so " * n + str(2 * n + 1)} for n in range(1, 15)]
    return recipe(file_source(path, rows), 2, 8, 4, **rest)


def test_long_traces_weigh_more_and_short_ones_less_within_their_family(tmp_path: Path) -> None:
    _, stage = run_in(tmp_path / "run", lengths_file(tmp_path, curate={"hard_weight": 1.75, "easy_weight": 0.5}))
    samples = sorted(read_jsonl(stage / "samples.jsonl", Sample), key=lambda one: len(one.messages[-1].thinking or ""))
    assert [one.weight for one in samples] == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.75, 1.75]
    assert [one.difficulty_class for one in samples] == ["easy"] * 2 + ["medium"] * 4 + ["hard"] * 2


def test_easy_samples_of_weight_zero_are_dropped_with_a_reason(tmp_path: Path) -> None:
    summary, stage = run_in(tmp_path / "run", lengths_file(tmp_path, curate={"easy_weight": 0}))
    assert len(list(read_jsonl(stage / "samples.jsonl", Sample))) == 6
    assert {one["reason"] for one in dropped_of(stage) if one["step"] == "difficulty"} == {"easy, and easy weighs 0"}
    assert summary["classes"] == {"hard": 2, "medium": 4}


def test_of_a_generated_family_a_sample_is_examined(fewer: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    few, _ = run_in(tmp_path / "a", generated(train=24, controls={"generated": 8}))
    assert {entry["items"] for entry in few["controls"]} == {8}
    assert sum(entry["items"] for entry in fewer[0]["controls"]) == 16 + 24 + 20


def test_where_a_sample_fails_all_of_its_family_are_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that comes out wrong once in two."""
    made = GeneratedProblems._problem

    def spoilt(self: GeneratedProblems, entry: dict[str, Any]) -> Problem:
        problem = made(self, entry)
        wrong = self.family == "gcd" and int(problem.id, 16) % 2
        return dataclasses.replace(problem, answer="12345678") if wrong else problem

    monkeypatch.setattr(GeneratedProblems, "_problem", spoilt)
    monkeypatch.setattr(GeneratedProblems, "_require_scorable", lambda self: None)
    _, stage = run_in(tmp_path / "run", generated(train=24, controls={"generated": 8}))
    wrong = [one for one in dropped_of(stage) if one["step"] == "reference answers"]
    assert len(wrong) > 3
    assert {one["source"] for one in wrong} == {"reasoning_gym/gcd"}
    kept = [*read_jsonl(stage / "held_out.jsonl", Problem), *read_jsonl(stage / "problems_rl.jsonl", Problem)]
    assert not [problem for problem in kept if problem.answer == "12345678"]


def test_held_out_problems_of_a_refused_family_have_their_line_and_their_count(tmp_path: Path) -> None:
    sums = file_source(tmp_path, [row(n) for n in range(60)])
    rows = [row(n, "7", f"Crate {n} was sold {n + 2} days ago; what number is on its lid?") for n in range(60)]
    (tmp_path / "sevens.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    sevens = {**sums[0], "name": "sevens", "path": str(tmp_path / "sevens.jsonl")}
    summary, stage = run_in(tmp_path / "run", recipe([*sums, sevens], 12, 60, 12))
    gone = [one for one in dropped_of(stage) if one["step"] == "families of negative controls"]
    reason = "its family is refused: one constant wins (7)"
    assert Counter(one["reason"] for one in gone) == {reason: 36, f"held out, and {reason}": 6}
    assert {one["source"] for one in gone} == {"sevens"}
    held_out = list(read_jsonl(stage / "held_out.jsonl", Problem))
    assert len(held_out) == 6
    assert not {problem.id for problem in held_out} & {one["id"] for one in gone}
    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary_table(summary))
    assert f"6 held out, and {reason}" in captured.get()


def test_the_terminal_table_shows_steps_counts_and_reasons() -> None:
    rows = [{"step": "incorrect", "unit": "trace", "in": 1200, "out": 1100, "reasons": {"wrong answer": 100}}]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(summary_table({"table": rows}))
    shown = captured.get()
    assert all(part in shown for part in ("incorrect", "trace", "1,200", "1,100", "100 wrong answer"))
