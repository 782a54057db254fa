"""Answers of an evaluation in a file: it goes on from what a kill leaves, and asks for verdicts that did not come."""

import contextlib
import json
import os
import random
import signal
from pathlib import Path

import pytest

from h1r.common.progress import quiet
from h1r.config import EvalSection, RolloutSection
from h1r.data.tokenizer import train_tokenizer
from h1r.errors import UserError
from h1r.evals.benchmark import evaluate
from h1r.evals.kept import unfinished
from h1r.evals.samples import Samples
from h1r.records import Problem, Trace, Verdict, content_id, name_of
from h1r.rollout.pipeline import RolloutPipeline

TOKENIZER = train_tokenizer(["what is 3 plus 4 " * 4], 300)
PROBLEMS = [Problem(f"p{i}", f"what is {i} plus 4", str(i + 4)) for i in range(5)]
SECTION = EvalSection(samples=4, temperature=1.0, top_p=1.0, max_tokens=32)


class CountingEngine:
    """Answers a function of the seed, and counts what it was asked; `fails` says which (number, seed) it fails at."""

    def __init__(self, fails=lambda number, seed: False):
        self.asked, self.fails = [], fails

    def stream(self, prompts, params):
        for i in reversed(range(len(prompts))):
            number = int(TOKENIZER.decode(prompts[i]).split("what is ")[1].split()[0])
            for j in range(params[i].n):
                seed = params[i].seed + j
                self.asked.append((number, seed))
                text = rf"<think> so \u2028 </think> \boxed{{{number + random.Random(seed).choice([4, 5])}}}"
                ids = TOKENIZER.encode(text, add_special_tokens=False)
                reason = "error" if self.fails(number, seed) else "stop"
                yield Trace(i, j, ids, text, [], [], [seed % 7 / 8] * len(ids), reason, seed=seed, error="broke")


def exact(problems, texts):
    right = [text.endswith(f"{{{problem.answer}}}") for problem, text in zip(problems, texts, strict=True)]
    return [Verdict(float(one), extracted="n") for one in right]


def run(path, engine, verify_many=exact):
    quiet()
    pipeline = RolloutPipeline(engine, TOKENIZER, verify_many, section=RolloutSection(max_failed_share=1.0))
    found = evaluate(pipeline, PROBLEMS, SECTION, 3, path=path).to_dict()
    return {key: value for key, value in found.items() if key != "seconds"}


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_every_answer_is_a_line_with_its_verdict_in_order(tmp_path: Path) -> None:
    found = run(tmp_path / "s.jsonl", CountingEngine())
    kept = rows(tmp_path / "s.jsonl")
    assert [(row["problem_id"], row["sample"]) for row in kept] == [(f"p{i}", j) for i in range(5) for j in range(4)]
    assert sum(row["verdict"]["reward"] for row in kept) / 20 == pytest.approx(found["pass_at_1"])
    assert {row["question"] for row in kept} == {problem.question for problem in PROBLEMS}
    assert found == run(None, CountingEngine())


def test_what_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    first = CountingEngine()
    whole = run(tmp_path / "s.jsonl", first)
    lines = (tmp_path / "s.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    kept = [number for number in range(20) if number % 3]
    (tmp_path / "s.jsonl").write_text(
        "".join(f"{lines[number]}\n" for number in reversed(kept)) + '{"cut', encoding="utf-8"
    )
    second = CountingEngine()
    assert run(tmp_path / "s.jsonl", second) == whole
    every = sorted(first.asked)  # by problem and sample: the seeds of a problem follow each other
    assert sorted(second.asked) == [asked for number, asked in enumerate(every) if number not in kept]
    third, file = CountingEngine(), (tmp_path / "s.jsonl").stat().st_ino
    assert run(tmp_path / "s.jsonl", third) == whole
    assert third.asked == []
    assert (tmp_path / "s.jsonl").stat().st_ino == file  # a whole file is not written anew


def test_a_verdict_that_did_not_come_is_asked_for_again_without_the_answer(tmp_path: Path) -> None:
    def broken(problems, texts):
        return [Verdict(0.0, error="the judge is down", reason="unscored") if p.id == "p1" else v
                for p, v in zip(problems, exact(problems, texts), strict=True)]  # fmt: skip

    found = run(tmp_path / "s.jsonl", CountingEngine(), broken)
    assert (found["unscored"], found["error"], unfinished(found)) == (0.2, 0.0, 4)
    assert [outcome["problem_id"] for outcome in found["outcomes"]] == ["p0", "p2", "p3", "p4"]
    again = CountingEngine()
    assert run(tmp_path / "s.jsonl", again) == run(None, CountingEngine())
    assert again.asked == []


def test_an_answer_that_the_engine_failed_at_is_asked_for_again(tmp_path: Path) -> None:
    found = run(tmp_path / "s.jsonl", CountingEngine(lambda number, seed: number == 2))
    assert (found["error"], unfinished(found)) == (pytest.approx(0.2), 4)
    again = CountingEngine()
    assert run(tmp_path / "s.jsonl", again) == run(None, CountingEngine())
    assert {number for number, _ in again.asked} == {2}


@pytest.mark.parametrize(
    "line",
    ["{}", "[]", "1", "no json", '{"problem": 0, "sample": "0", "text": 1}', '{"problem": 99, "sample": 0}'],
)
def test_a_line_that_is_no_answer_is_named(tmp_path: Path, line: str) -> None:
    run(tmp_path / "s.jsonl", CountingEngine())
    with open(tmp_path / "s.jsonl", "a", encoding="utf-8") as handle:
        handle.write(line + "\n")
    for _ in range(2):  # the file is not left locked
        with pytest.raises(UserError, match="line 21: no answer of an evaluation"):
            run(tmp_path / "s.jsonl", CountingEngine())


def test_problems_of_one_id_keep_their_own_answers(tmp_path: Path) -> None:
    problems = [Problem("p", "what is 1", "1"), Problem("p", "what is 2", "2")]
    for _ in range(2):
        with Samples(tmp_path / "s.jsonl", problems, 1) as samples:
            if missing := list(samples.missing()):
                samples.add([Trace(index, 0, [1], str(index), [], [], [0.5], "stop") for index, _ in missing])
                samples.grade(missing, [Verdict(1.0), Verdict(0.0)])
            found = dict(samples.answers())
            assert [samples.trace((index, 0)).text for index in (0, 1)] == ["0", "1"]
            assert (found[0, 0].reward, found[1, 0].reward) == (1.0, 0.0)
            samples.finish()


def test_half_a_character_in_a_question_is_kept(tmp_path: Path) -> None:
    with Samples(tmp_path / "s.jsonl", [Problem("p", "what \ud835 is", "1")], 1) as samples:
        samples.add([Trace(0, 0, [1], "π \u2028", [], [], [0.5], "stop")])
        samples.grade([(0, 0)], [Verdict(1.0)])
        samples.finish()
        assert samples.trace((0, 0)).text == "π \u2028"
    with Samples(tmp_path / "s.jsonl", [Problem("p", "what \ud835 is", "1")], 1) as samples:
        assert [*samples.missing(), *samples.unscored()] == []
        assert samples.trace((0, 0)).confidences == [0.5]
        assert samples.verdict((0, 0)) == Verdict(1.0)


def killed_after(path: Path, answers: int) -> bool:
    """Evaluates in a fork of this process, which is killed before it gives the next answer; whether it was."""

    def fails(number: int, seed: int) -> bool:
        nonlocal answers
        answers -= 1
        if answers < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            run(path, CountingEngine(fails))
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_kills_at_any_answer_leave_the_scores_of_an_unbroken_run(tmp_path: Path) -> None:
    """Every attempt but the last is killed after a few answers; none of those that had ended is generated again."""
    path, random_number = tmp_path / "s.jsonl", random.Random(0)
    while True:
        after = random_number.randint(1, 3)
        before = len(rows(path)) if path.exists() else 0
        if not killed_after(path, after):
            break
        assert len([row for row in rows(path)[before:] if "text" in row]) == after
    assert run(path, CountingEngine()) == run(None, CountingEngine())


def test_a_problem_is_called_by_its_question_where_it_has_no_id_of_its_own() -> None:
    question = "What is\n12 + 30?"
    assert name_of(content_id(question), question) == "What is 12 + 30?"
    assert name_of("mine-1", question) == "mine-1"
    assert name_of(content_id(question), None) == content_id(question)
    long = "word " * 100
    assert len(name_of(content_id(long), long)) <= 72
