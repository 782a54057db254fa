"""Benchmarks from files: what becomes of their rows, and a whole evaluation of a checkpoint that was never curated."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from h1r.cli import main
from h1r.common.files import contents
from h1r.config import (
    BenchmarkSection,
    ControlsSection,
    EvalSection,
    GuardSection,
    JudgeSection,
    Recipe,
    find_recipe,
    load_recipe,
)
from h1r.data.tokenizer import train_tokenizer
from h1r.engine.protocol import Engine
from h1r.errors import UserError
from h1r.evals.benchmarks import (
    Benchmark,
    accepted,
    check_verifiers,
    load_benchmark,
    settings,
)
from h1r.evals.guard import guard_decides
from h1r.evals.kept import contents_of, measured, refusals_of
from h1r.evals.stages import _depends_on
from h1r.models import build, save
from h1r.models.falcon_h1.config import preset
from h1r.records import Problem, Verdict
from h1r.run.directory import Run
from h1r.verify import Verifier, VerifierPool, judge_words, require
from h1r.verify.gradable import why_ungradable
from h1r.verify.judge import grade as judge
from h1r.verify.judge.official import OFFICIAL
from h1r.verify.registry import VERIFIERS
from h1r.verify.version import ROOMS, are_ours, grading_version

CHOICE = {"columns": {"answer": "answer"}, "verifier": "choice", "prompt": "Q: {question}\n{options}\nAnswer: X"}


def benchmark(path: Path, rows: list[dict[str, Any]], **keys: Any) -> BenchmarkSection:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return BenchmarkSection(**{"name": "b", "kind": "jsonl", "path": str(path), **keys})


def test_options_in_a_list_are_lettered_and_the_letter_is_the_reference(tmp_path: Path) -> None:
    rows = [{"question": "Which?", "options": ["one", "two", "three"], "answer": "C"}]
    (problem,) = load_benchmark(benchmark(tmp_path / "f.jsonl", rows, options=["options"], **CHOICE)).problems
    assert problem.question == "Q: Which?\nA) one\nB) two\nC) three\nAnswer: X"
    assert problem.answer == "C"
    assert problem.metadata == {"options": ["one", "two", "three"]}


def test_options_in_columns_are_shuffled_the_same_way_every_time(tmp_path: Path) -> None:
    rows = [
        {"question": f"Which is it, {n}?", "answer": "", "right": "r", "w1": "x", "w2": "y", "w3": "z"}
        for n in range(40)
    ]
    section = benchmark(tmp_path / "f.jsonl", rows, options=["right", "w1", "w2", "w3"], **CHOICE)
    problems = load_benchmark(section).problems
    assert all(problem.metadata["options"]["ABCD".index(problem.answer)] == "r" for problem in problems)
    assert {problem.answer for problem in problems} == set("ABCD")
    assert problems == load_benchmark(section).problems


def test_metadata_goes_to_the_verifier_and_into_the_prompt(tmp_path: Path) -> None:
    rows = [
        {"question": "q1", "answer": "", "more": json.dumps({"name": "f"}), "code": "def f():", "cases": [1]},
        {"question": "q2", "answer": "", "more": "{}", "code": "", "cases": [2]},
    ]
    columns = {"tests": "cases", "func_name": "more.name?", "code": "code"}
    prompt = r"{question} \boxed{} {unknown} {code}"
    section = benchmark(tmp_path / "f.jsonl", rows, metadata=columns, prompt=prompt, verifier="code")
    first, second = load_benchmark(section).problems
    assert first.metadata == {"tests": [1], "func_name": "f", "code": "def f():"}
    assert second.metadata == {"tests": [2], "code": ""}
    assert first.question == r"q1 \boxed{} {unknown} def f():"


def test_rows_are_chosen_by_value_and_number(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{n}", "right": "1", "kind": "number" if n % 2 else "text", "set": n // 4} for n in range(12)
    ]
    chosen = {"columns": {"answer": "right"}, "without": {"kind": "text", "absent": "x"}, "only": {"set": "1"}}
    section = benchmark(tmp_path / "f.jsonl", rows, **chosen)
    assert [p.question for p in load_benchmark(section).problems] == ["q5", "q7"]
    section = benchmark(tmp_path / "f.jsonl", rows, limit=3, columns={"answer": "right"})
    assert [p.question for p in load_benchmark(section).problems] == ["q0", "q1", "q2"]


def test_unusable_rows_are_kept_apart_and_a_benchmark_of_them_is_refused(tmp_path: Path) -> None:
    good = {"question": "Which?", "options": ["a", "b"], "answer": "A"}
    bad = {"question": "Which?", "options": "a or b", "answer": "A"}
    section = benchmark(tmp_path / "f.jsonl", [bad, good, bad], options=["options"], **CHOICE)
    found = load_benchmark(section)
    assert (len(found.problems), len(found.unusable)) == (1, 2)
    assert {row["detail"] for row in found.unusable} == {"its options are no list"}
    with pytest.raises(UserError, match=r"`b` has no usable problem .*no list"):
        load_benchmark(benchmark(tmp_path / "f.jsonl", [bad], options=["options"], **CHOICE))
    with pytest.raises(UserError, match="neither an answer nor"):
        load_benchmark(benchmark(tmp_path / "f.jsonl", [{"question": "q"}]))
    for none in (None, "", "NaN", "n/a"):  # whatever else the row has, mathematics needs a reference
        rows = [{"question": "q", "answer": none, "more": 1}]
        section = benchmark(tmp_path / "f.jsonl", rows, columns={"answer": "answer"}, metadata={"more": "more"})
        with pytest.raises(UserError, match="neither an answer nor"):
            load_benchmark(section)
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
    recipe = load_recipe(find_recipe("h1r-7b-eval"))
    asked = {section.name: settings(section, recipe.eval) for section in recipe.eval.benchmarks}
    assert {name: (section.samples, section.max_tokens) for name, section in asked.items()} == {
        "AIME24": (16, 65536),
        "AIME25": (16, 65536),
        "HMMT25": (16, 65536),
        "AMO-Bench": (16, 65536),
        "MATH500": (1, 32768),
        "GPQA-Diamond": (5, 32768),
        "MMLU-Pro": (3, 32768),
        "HLE": (1, 65536),
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
    monkeypatch.setattr("h1r.evals.kept.examine", None)  # controls are not graded again, either
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
        check_verifiers([load_benchmark(section)], pool.verify_many)


def test_problems_that_pay_for_nothing_are_unusable_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"How many are {n} and 5?", "answer": str(n + 5), "wide": {}} for n in range(500, 504)]
    rows[2]["wide"] = {"tolerance": 0.9999}
    metadata = {"tolerance": "wide.tolerance?"}
    whole = load_benchmark(
        benchmark(tmp_path / "f.jsonl", rows, columns={"answer": "answer"}, metadata=metadata, prompt="{question} Box.")
    )
    problems = whole.problems
    with VerifierPool(format_checks=False) as pool:

        def found(**keys: Any) -> tuple[list[str], list[str]]:
            asked, bad = accepted(whole, pool.verify_many, ControlsSection(**keys), allow_unusable=1)
            return [problem.question for problem in asked], [row["id"] for row in bad]

        questions = [problem.question for problem in problems]
        assert found() == (questions[:2] + questions[3:], [problems[2].id])
        assert (
            f"benchmark b: 1 of 4 problems is unusable ({problems[2].id}: a control earns: " in capsys.readouterr().err
        )
        assert found(in_eval="report") == (questions, [problems[2].id])
        assert found(enabled=False) == (questions, [])
        with pytest.raises(UserError, match="1 of 4 problems is unusable"):
            found(in_eval="stop")
        with pytest.raises(UserError, match="1 of 1 problem is unusable"):
            accepted(Benchmark("b", problems[2:3]), pool.verify_many, ControlsSection(), allow_unusable=1)
        with pytest.raises(UserError, match="allow_unusable = 1"):
            accepted(whole, pool.verify_many, ControlsSection())


@pytest.mark.parametrize(
    ("verifier", "good", "bad", "reason"),
    [
        ("choice", {"answer": "B"}, {"answer": "none of them"}, "reference answer does not verify"),
        ("math", {"answer": "1/2"}, {"answer": "\\frac{1}{2"}, "reference answer does not verify"),
        ("code", {"tests": ["assert f(1) == 2"]}, {"tests": ["it adds one"]}, "the tests cannot be used"),
    ],
)
def test_a_reference_that_cannot_be_read_is_unusable_though_controls_are_off(
    verifier: str, good: dict[str, Any], bad: dict[str, Any], reason: str
) -> None:
    problems = [
        Problem(
            name, f"What is {name}?", one.get("answer", ""), verifier=verifier,
            metadata={"options": ["one", "two"]} if verifier == "choice" else {"tests": one.get("tests", [])},
        )
        for name, one in (("good", good), ("bad", bad))
    ]  # fmt: skip
    with VerifierPool(format_checks=False) as pool:
        asked, left_out = accepted(Benchmark("b", problems), pool.verify_many, ControlsSection(enabled=False), 1)
    assert [one.id for one in asked] == ["good"]
    assert [(row["id"], row["reason"]) for row in left_out] == [("bad", reason)]


def test_all_that_a_result_depends_on_is_in_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents, not paths: what lies under a path may be another file the next time."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model, named = tmp_path / "model", tmp_path / "hub" / "models--somebody--model"
    model.mkdir()
    (named / "refs").mkdir(parents=True)

    def commit(name: str) -> None:
        (named / "refs" / "main").write_text(name)
        (named / "snapshots" / name).mkdir(parents=True)
        (named / "snapshots" / name / "config.json").write_text("{}")

    def key(checkpoint: str = str(model), **sections: Any) -> str:
        recipe = Recipe.model_validate({"name": "r", "model": {"checkpoint": checkpoint}, **sections})
        return json.dumps(_depends_on(recipe, Run(tmp_path / "run"), "base", cast("Engine", None)))

    (model / "model.safetensors").write_bytes(b"one")
    commit("first")
    keys = [key(), key("somebody/model")]
    (model / "model.safetensors").write_bytes(b"two")
    commit("second")
    keys += [
        key(), key("somebody/model"), key("h1r:small"), key(chat={"system_prompt": "Be brief."}), key(seed=3),
        key(engine={"kind": "native", "dtype": "bfloat16"}), key(judge={"urls": ["http://a/v1"], "model": "j"}),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key() == keys[2]
    one = Problem("a", "What is 1 + 1?", "2", metadata={"tolerance": 0.1})
    others = [dataclasses.replace(one, **change) for change in (
        {"question": "What is 1 + 2?"}, {"answer": "3"}, {"verifier": "choice"}, {"metadata": {"tolerance": 0.2}},
    )]  # fmt: skip
    assert len({contents_of([problem]) for problem in (one, *others)}) == 5


def test_a_verdict_depends_on_who_judged_it_and_in_what_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the model: where the words, or what the judge may say, are others, what it said is no verdict."""
    judges = [{}, {"temperature": 0.5}, {"max_tokens": 99}, {"max_question_chars": 99}, {"max_answer_chars": 99},
              {"reply": "boxed"}]  # fmt: skip
    assert len({json.dumps(JudgeSection(**one).decides("never")) for one in judges}) == len(judges)
    same = [{"concurrency": 1}, {"timeout_s": 9.0}, {"attempts": 1}, {"cache": "file"}]
    assert all(JudgeSection(**one).decides("never") == ["", "never"] for one in same)

    ruled = [Problem("a", "1 + 1?", "2", verifier="math")]
    judged = [Problem("b", "Why?", "because", verifier="judge")]
    official = [Problem("c", "Why?", "because", verifier="judge", metadata={"judge": name}) for name in OFFICIAL]

    def words() -> list[str | None]:
        groups = (ruled, judged, *([one] for one in official))
        return [judge_words(one, "verdict", "never") for one in groups]

    before = words()
    assert before[0] is None, "no judge is asked"
    assert len(set(before)) == len(before)
    assert judge_words(ruled, "verdict", "wrong") == judge_words([*ruled, *judged], "verdict", "never") == before[1]
    assert judge_words(judged, "boxed", "never") != before[1]
    with monkeypatch.context() as changed:
        changed.setattr("h1r.verify.judge.prompt._SYSTEM", "Is it right?")
        assert [old == new for old, new in zip(before, words(), strict=True)] == [True, False, True, True]
    hle = dataclasses.replace(OFFICIAL["hle"], template="Is {response} {correct_answer}?")
    monkeypatch.setitem(OFFICIAL, "hle", hle)
    assert [old == new for old, new in zip(before, words(), strict=True)] == [True, True, False, True]

    guards = [{}, {"model": "another"}, {"format": "words"}, {"max_tokens": 9}]
    decided = [guard_decides(GuardSection(**one)) for one in guards]
    assert len(set(map(json.dumps, decided))) == len(guards)
    assert guard_decides(GuardSection(urls=["http://a/v1"], timeout_s=9.0)) == decided[0]
    monkeypatch.setattr("h1r.evals.guard._ASK", "Is it safe?")
    assert [guard_decides(GuardSection(**one)) == old for one, old in zip(guards, decided, strict=True)] == [
        True, True, False, True,
    ]  # fmt: skip


def test_a_benchmark_is_measured_again_when_anything_it_depends_on_changes(tmp_path: Path) -> None:
    runs: list[str] = []

    def measure(samples: Path) -> dict[str, Any]:
        runs.append(samples.name)
        return {"problems": 2, "samples_per_problem": 2, "unscored": 0.25 if len(runs) == 4 else 0.0, "error": 0.0}

    for of in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"seed": 1}, {"seed": 3}, {"seed": 3}, {"seed": 3}):
        found = measured(of, tmp_path / "r.json", measure)
    assert len(runs) == 5  # the fourth has an answer without a verdict
    assert len(set(runs)) == 3
    assert runs[3] == runs[4] == found["samples"]


def test_controls_are_graded_again_only_where_what_they_depend_on_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [Problem(f"p{n}", f"What is {n} + 5?", str(n + 5), verifier="exact") for n in range(6)]
    problems[2].metadata = {"note": "nobody can be right"}
    graded: list[int] = []
    reason: list[Any] = ["wrong"]

    def grade(asked: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        graded.append(len(texts))
        return [
            Verdict(float(f"{{{problem.answer}}}" in text and not problem.metadata), reason=reason[0])
            for problem, text in zip(asked, texts, strict=True)
        ]

    path = tmp_path / "eval" / "controls" / "b.json"

    def found(of: Sequence[Problem] = problems, time_limit_s: float = 5.0, **keys: Any) -> tuple[list[int], bool]:
        """The problems that are refused, and whether any was graded."""
        graded.clear()
        refusals = refusals_of(of, grade, ControlsSection(**keys), path, {"time_limit_s": time_limit_s})
        assert all("does not verify" in why.reason for why in refusals if why)
        return [place for place, why in enumerate(refusals) if why], bool(graded)

    assert found() == ([2], True)
    assert found() == ([2], False)
    assert found(in_eval="report") == ([2], False), "what becomes of them is no matter of the verdicts"
    mended = [*problems[:2], dataclasses.replace(problems[2], metadata={}), *problems[3:]]
    for change in ({"of": mended}, {"per_item": 0}, {"time_limit_s": 1.0}, {"enabled": False}):
        expected = [] if "of" in change else [2]
        assert found(**change) == (expected, True), change
        assert found(**change) == (expected, False), change
    assert found() == ([2], True)
    monkeypatch.setattr("h1r.evals.kept.grading_version", lambda: "another")
    assert found() == ([2], True)
    for reason[0] in ("unscored", "time"):
        assert found(per_item=1) == ([2], True), "a machine may have been busy"
        assert found(per_item=1) == ([2], True)
    reason[0] = "wrong"
    monkeypatch.setattr("h1r.evals.kept.are_ours", lambda names: False)
    assert found(per_item=1) == found(per_item=1) == ([2], True), "nobody knows when foreign code changes"


def test_code_that_grades_is_told_from_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ROOMS:
        path = tmp_path / room
        path = path if path.suffix else path / "deeper" / "file.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a = 1\n")
    versions = [grading_version.__wrapped__(tmp_path)]
    for path in sorted(tmp_path.rglob("*.py")):
        path.write_text("a = 2\n")
        versions.append(grading_version.__wrapped__(tmp_path))
    assert len(set(versions)) == len(ROOMS) + 1
    assert grading_version.__wrapped__(tmp_path) == versions[-1]
    assert are_ours(["math", "code", "reasoning_gym", ""])
    monkeypatch.setitem(VERIFIERS._parts, "mine", Verifier("mine", grade=None, quick="somebody.verifier:grade"))
    assert not are_ours(["math", "mine"])


def test_why_everything_is_asked_anew_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("h1r.evals.kept.note", notes.append)

    def measure(samples: Path) -> dict[str, Any]:
        samples.touch()
        return {}

    def note_of(**of: Any) -> str:
        notes.clear()
        measured(of, tmp_path / "r.json", measure)
        return " ".join(notes)

    assert note_of(server="a", seed=1) == ""
    assert note_of(server="a", seed=2).endswith("was measured with another value of seed, and is measured anew")
    moved = note_of(server="b", seed=3)
    assert "with another value of seed and server" in moved
    assert "engine.endpoint.same_as" in moved
    (tmp_path / "r.json").unlink()
    assert "is of another model, server" in note_of(server="c", seed=3)
    assert "is of another" not in note_of(server="c", seed=3)


def test_contents_tell_weights_apart_not_their_names_or_times(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"one")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    times = (tmp_path / "a" / "model.safetensors").stat()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"two")
    os.utime(tmp_path / "a" / "model.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert contents(tmp_path / "a") != contents(tmp_path / "b")


def test_an_index_answer_wants_to_be_called_one(tmp_path: Path) -> None:
    rows = [{"question": f"Which, {n}?", "options": ["7", "2", "ten", "4"], "answer": n} for n in range(4)]
    path = tmp_path / "f.jsonl"
    found = load_benchmark(benchmark(path, rows, options=["options"], index_from=0, **CHOICE))
    assert [problem.answer for problem in found.problems] == ["A", "B", "C", "D"]
    assert [
        row["detail"]
        for row in load_benchmark(benchmark(path, rows, options=["options"], index_from=1, **CHOICE)).unusable
    ] == ["its answer '0' is no index of 4 options from 1"]
    unsaid = load_benchmark(benchmark(path, rows, options=["options"], **CHOICE))
    assert [problem.answer for problem in unsaid.problems] == ["2"]  # the text of an option
    assert len(unsaid.unusable) == 3
    assert "index_from" in unsaid.unusable[0]["detail"]
    with VerifierPool(format_checks=False) as pool, pytest.raises(UserError, match="allow_unusable = 3"):
        accepted(unsaid, pool.verify_many, ControlsSection())


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(B)", "B"), ("b.", "B"), ("c", "C"), ("**C**", "C"), ("Answer: D", "D"), ("The answer is (A).", "A"),
        (r"\boxed{D}", "D"), (r"\text{A}", "A"), ("B) oak", "B"), ("Oak", "B"), ("oak", "oak"),
        ("E", None), ("(E)", None), ("A or B", None), ("A, C", None), ("(2)", None), ("(the last one)", None),
    ],
)  # fmt: skip
def test_a_letter_in_another_form_is_read_or_the_row_is_unusable(
    tmp_path: Path, answer: str, letter: str | None
) -> None:
    options = ["elm", "oak", "ash", "2 firs"]
    rows = [{"question": f"Which, {n}?", "options": options, "answer": one} for n, one in enumerate(("A", answer))]
    found = load_benchmark(benchmark(tmp_path / "f.jsonl", rows, options=["options"], **CHOICE))
    assert [problem.answer for problem in found.problems[1:]] == ([] if letter is None else [letter])
    assert [row["detail"] for row in found.unusable] == (
        [f"its answer {answer!r} is none of the options"] if letter is None else []
    )


def test_another_size_than_expected_is_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"question": f"q{n}", "answer": str(n)} for n in range(4)] + [{"question": "none"}]
    keys = {"columns": {"answer": "answer"}}
    assert len(load_benchmark(benchmark(tmp_path / "f.jsonl", rows, expect=5, **keys)).problems) == 4
    with pytest.raises(UserError, match="has 5 problems, and `expect` says 6"):
        load_benchmark(benchmark(tmp_path / "f.jsonl", rows, expect=6, **keys))


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        ("Let n = 12. (a) What is 2n? (b) What is 3n?", "24", "several questions with one reference"),
        ("Let n = 12. (a) What is 2n? (b) What is 3n?", "24, 36", None),
        ("i) Add 3 to 4. ii) Double it.", "14", "several questions with one reference"),
        ("Part A: find x. Part B: find y.", "3", "several questions with one reference"),
        ("Which is odd: (A) 2 (B) 3?", "3", None),
        ("Find f(a) + f(b) for f(x) = x.", "a+b", None),
        ("What is the area of the triangle in the figure below?", "12", "a figure that is not there"),
        ("As shown in the diagram, how long is AB?", "12", "a figure that is not there"),
        ("[asy] draw((0,0)--(3,4)); [/asy] In the figure, how long is the line?", "5", None),
        ("What is the least three-figure number?", "100", None),
        ("How many are there?", "There are infinitely many, since each even n works.", "a reference of prose"),
        ("How many are there?", r"7 \text{ square metres}", None),
        ("When does it hold?", r"$n = 2^k$ for every positive $k$", None),
    ],
)
def test_what_no_rule_can_grade_is_left_out_where_asked(
    tmp_path: Path, question: str, answer: str, why: str | None
) -> None:
    assert why_ungradable(Problem("p", question, answer)) == why
    rows = [{"question": "What is 1 plus 1?", "answer": "2"}, {"question": question, "answer": answer}]
    keys = {"columns": {"answer": "answer"}, "only_gradable": True}
    found = load_benchmark(benchmark(tmp_path / "f.jsonl", rows, **keys))
    assert (len(found.problems), found.ungradable) == ((2, 0) if why is None else (1, 1))


def test_two_benchmarks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two benchmarks are called `b`"):
        EvalSection(benchmarks=[BenchmarkSection(name="b", kind="jsonl", path="x")] * 2)
