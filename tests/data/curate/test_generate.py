"""Traces from a teacher: a real HTTP server that counts what it is asked."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from corpora import answer, corpus_recipe, curated, question
from teacher import Teacher, running

from h1r.config import Recipe
from h1r.config.prices import PriceSection
from h1r.data.curate.generate import Endpoint, Generated, ask_again, generate_shard, given_from, in_batches
from h1r.data.curate.io.items import Given, Item
from h1r.data.curate.plan import ask_teacher_again
from h1r.errors import UserError
from h1r.records import Problem, Sample, read_jsonl


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    with running() as server:
        yield server


def recipe(server: Teacher, **traces: Any) -> Recipe:
    section = {"by": "endpoint", "url": server.url, "model": "big", "n": 5, "concurrency": 3, **traces}
    return Recipe.model_validate({"name": "t", "chat": {"system_prompt": "S"}, "corpus": {"traces": section}})


def traces_of(found: Recipe, problems: Iterable[Problem]) -> dict[int, list[Given]]:
    with Endpoint(found.corpus.traces, found) as endpoint:
        return {index: made.traces for index, made in endpoint(problems)}


def generated(path: Path, found: Recipe, wanted: Iterable[Item]) -> int:
    with Endpoint(found.corpus.traces, found) as endpoint:
        return generate_shard(path, wanted, endpoint)


def problems(count: int) -> list[Problem]:
    return [item.problem for item in items(count)]


def items(count: int) -> list[Item]:
    return [Item(n, Problem(f"p{n}", question(n), answer(n)), "s", "math", "sft") for n in range(count)]


def test_an_endpoint_is_asked_once_a_problem_with_the_settings_of_the_recipe(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    found = traces_of(recipe(teacher, key_variable="SOME_KEY"), problems(7))
    assert sorted(found) == list(range(7))
    assert set(teacher.asked.values()) == {1}
    body = teacher.bodies[0]
    assert (body["n"], body["temperature"], body["top_p"], body["model"]) == (5, 0.6, 0.95, "big")
    assert body["messages"][0] == {"role": "system", "content": "S"}
    assert (body["key"], body["path"]) == ("Bearer secret", "/v1/chat/completions")
    assert found[4][0].answer.thinking == "try 0"
    assert [one.finish_reason for one in found[4]] == ["stop"] * 4 + ["length"]


def test_as_many_problems_as_the_recipe_says_are_under_way_and_no_more_are_taken(teacher: Teacher) -> None:
    teacher.wait_s = 0.05
    taken = 0

    def coming() -> Iterator[Problem]:
        nonlocal taken
        for problem in problems(12):
            taken += 1
            yield problem

    found = recipe(teacher)
    with Endpoint(found.corpus.traces, found) as endpoint:
        for done, _ in enumerate(endpoint(coming())):
            assert taken <= done + 3
    assert taken == 12
    assert teacher.most_at_once == 3


def test_a_server_that_gives_fewer_choices_is_asked_for_the_others(teacher: Teacher) -> None:
    teacher.most = 2
    found = traces_of(recipe(teacher), problems(1))
    assert len(found[0]) == 5
    assert [(body["n"], body["seed"]) for body in teacher.bodies] == [(5, 0), (3, 2), (1, 4)]


def test_a_busy_endpoint_is_asked_again(teacher: Teacher) -> None:
    teacher.refuse = 3
    assert len(traces_of(recipe(teacher), problems(2))) == 2


def test_a_refusal_for_good_is_one_sentence(teacher: Teacher) -> None:
    teacher.status = 404
    with pytest.raises(UserError, match=r"model `big`: there is no such .* no such model; mend corpus.traces"):
        traces_of(recipe(teacher), problems(1))


def test_a_problem_that_the_teacher_refuses_has_no_trace_and_stops_nobody(teacher: Teacher, tmp_path: Path) -> None:
    teacher.statuses = {question(2): 400}
    path = tmp_path / "0.jsonl"
    assert generated(path, recipe(teacher), items(7)) == 7
    found = list(Generated(path).added_to(items(7)))
    assert [len(item.traces) for item in found] == [5, 5, 0, 5, 5, 5, 5]
    assert generated(path, recipe(teacher), items(7)) == 0, "it is not asked again"


def test_a_teacher_that_refuses_everything_stops_the_run(teacher: Teacher) -> None:
    teacher.status = 422
    with pytest.raises(UserError, match=r"refused the first 5 problems, .* status 422: no such model; mend"):
        traces_of(recipe(teacher, concurrency=1), problems(9))


@pytest.mark.parametrize("status", [402, 429])
def test_an_account_without_credit_stops_the_run_and_loses_nothing(
    teacher: Teacher, tmp_path: Path, status: int
) -> None:
    """429 with the word of a provider for it; waiting would not help."""
    path = tmp_path / "0.jsonl"
    assert generated(path, recipe(teacher), items(3)) == 3
    teacher.status, teacher.said = status, b'{"error": {"code": "insufficient_quota"}}'
    with pytest.raises(UserError, match=r"out of credit.*what is done stays"):
        generated(path, recipe(teacher), items(6))
    teacher.status = 200
    assert generated(path, recipe(teacher), items(6)) == 3
    assert set(teacher.asked.values()) == {1}


def test_what_is_under_way_when_credit_ends_is_kept(teacher: Teacher, tmp_path: Path) -> None:
    teacher.wait_s, teacher.statuses = 0.2, {question(1): 402}
    path = tmp_path / "0.jsonl"
    with pytest.raises(UserError, match="out of credit"):
        generated(path, recipe(teacher), items(6))
    assert sorted(teacher.asked) == sorted([question(0), question(2)]), "nothing follows"
    assert len(Generated(path)) == 2


def test_a_problem_that_always_fails_is_set_aside_after_its_rounds(teacher: Teacher, tmp_path: Path) -> None:
    teacher.statuses = {question(2): 500}
    path = tmp_path / "0.jsonl"
    found = recipe(teacher, retries=0, rounds=3)
    assert generated(path, found, items(7)) == 7
    assert teacher.tried[question(2)] == 3
    made = Generated(path)
    assert [len(item.traces) for item in made.added_to(items(7))] == [5, 5, 0, 5, 5, 5, 5]
    assert made.spent.without == {"failed in every round": 1}
    assert ask_again(tmp_path) == 1
    teacher.statuses = {}
    assert generated(path, found, items(7)) == 1
    assert [len(item.traces) for item in Generated(path).added_to(items(7))] == [5] * 7


def test_a_server_that_goes_away_sets_nothing_aside(teacher: Teacher, tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    generated(path, recipe(teacher), items(2))
    teacher.status = 500
    with pytest.raises(UserError, match="does not answer"):
        generated(path, recipe(teacher, retries=0), items(6))
    assert len(Generated(path)) == 2


def test_what_the_teacher_costs_is_counted(teacher: Teacher, tmp_path: Path) -> None:
    teacher.usage = {"prompt_tokens": 11, "completion_tokens": 500}
    teacher.most = 3
    path = tmp_path / "0.jsonl"
    generated(path, recipe(teacher, price={"prompt": 1.0, "completion": 10.0}), items(4))
    spent = Generated(path).spent
    assert (spent.problems, spent.prompt_tokens, spent.completion_tokens) == (4, 2 * 4 * 11, 2 * 4 * 500)
    assert spent.cost(PriceSection(prompt=1.0, completion=10.0)) == pytest.approx((88 + 40_000) / 1e6)
    assert spent.cost(None) is None


def test_a_finished_curation_asks_again_for_what_was_refused(
    teacher: Teacher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher.usage = {"prompt_tokens": 11, "completion_tokens": 500}
    teacher.statuses = {question(0): 400}
    found = corpus_recipe(tmp_path)
    traces = {"by": "endpoint", "url": teacher.url, "model": "big", "n": 4, "price": {"prompt": 1, "completion": 10}}
    (tmp_path / "asked.jsonl").write_text(
        "".join(json.dumps({"question": question(n), "answer": answer(n)}) + "\n" for n in range(3))
    )
    source = {
        "name": "asked",
        "kind": "jsonl",
        "path": "asked.jsonl",
        "columns": {"question": "question", "answer": "answer"},
    }
    tree = found.model_dump(mode="json")
    tree["corpus"] |= {"sources": [source], "benchmarks": [], "traces": traces}
    found = Recipe.model_validate(tree)
    summary, stage = curated(found, tmp_path / "run")
    assert summary["teacher"]["without"] == {"refused": 1}
    assert "cost" in capsys.readouterr().err
    before = (stage / "samples.jsonl").read_text()
    teacher.statuses = {}
    assert ask_teacher_again(stage) == 1
    summary, _ = curated(found, tmp_path / "run")
    assert summary["teacher"]["without"] == {}
    assert summary["teacher"]["cost"] == pytest.approx(3 * (11 + 5000) / 1e6)
    assert len((stage / "samples.jsonl").read_text().splitlines()) > len(before.splitlines())
    assert teacher.asked[question(1)] == 1
    assert ask_teacher_again(stage) == 0


def test_no_server_says_how_to_go_on() -> None:
    section = {"by": "endpoint", "url": "http://127.0.0.1:9", "model": "m", "retries": 0}
    found = Recipe.model_validate({"name": "t", "corpus": {"traces": section}})
    with pytest.raises(UserError, match=r"does not answer .* what is done stays"):
        traces_of(found, problems(1))


def test_what_was_answered_beside_a_failure_is_kept(teacher: Teacher, tmp_path: Path) -> None:
    teacher.statuses = {question(0): 401}
    path = tmp_path / "0.jsonl"

    def coming() -> Iterator[Item]:
        yield from items(2)
        time.sleep(0.5)  # both are answered before anybody looks
        yield items(3)[2]

    with pytest.raises(UserError, match="key is refused"):
        generated(path, recipe(teacher), coming())
    assert 1 in Generated(path)


def test_after_a_kill_no_problem_is_lost_or_asked_twice(teacher: Teacher, tmp_path: Path) -> None:
    path = tmp_path / "generated" / "0.jsonl"
    assert generated(path, recipe(teacher), items(5)) == 5
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])  # the last line was being written
    assert generated(path, recipe(teacher), items(8)) == 8 - 4
    found = {item.ordinal: item.traces for item in Generated(path).added_to(items(8))}
    assert all(len(traces) == 5 for traces in found.values())
    assert [found[n][0].answer.content for n in range(8)] == [f"Altogether \\boxed{{{answer(n)}}}." for n in range(8)]
    assert len(path.read_text().splitlines()) == 8
    assert sorted(teacher.asked.values()) == [1] * 7 + [2], "only the torn one is asked again"


def test_an_engine_gets_lists_and_its_indices_go_on_from_one_to_the_next() -> None:
    sizes = []

    def engine(batch: Any) -> Iterator[tuple[int, list[Given]]]:
        sizes.append(len(batch))
        for index in reversed(range(len(batch))):
            yield index, [given_from(batch[index].question, batch[index].id, "stop")]

    found = {index: made.traces[0].answer.content for index, made in in_batches(engine, 3)(problems(8))}
    assert found == {n: f"p{n}" for n in range(8)}
    assert sizes == [3, 3, 2]


def test_code_with_a_reference_solution_is_asked_for_and_worked_mathematics_is_not(
    teacher: Teacher, tmp_path: Path
) -> None:
    two = items(2)
    two[0].problem.metadata |= {"solution": "def f(): return 2", "tests": {"inputs": []}}
    two[1].problem.metadata |= {"solution": "One and one is two."}
    assert generated(tmp_path / "0.jsonl", recipe(teacher), two) == 1
    assert list(teacher.asked) == [question(0)]


def test_problems_that_have_traces_or_are_for_rl_are_not_asked(teacher: Teacher, tmp_path: Path) -> None:
    three = items(3)
    three[0].use = "rl"
    three[1].traces = [given_from("q", "a", "stop")]
    assert generated(tmp_path / "0.jsonl", recipe(teacher), three) == 1
    assert list(teacher.asked) == [question(2)]


def test_a_curation_teaches_what_the_teacher_got_right(teacher: Teacher, tmp_path: Path) -> None:
    section = {"by": "endpoint", "url": teacher.url, "model": "big", "n": 5}
    found = corpus_recipe(tmp_path, traces=section)
    sums = next(source for source in found.corpus.sources if source.name == "sums")
    (tmp_path / "bare.jsonl").write_text(
        "".join(json.dumps({"question": question(1500 + n), "answer": answer(1500 + n)}) + "\n" for n in range(9))
    )
    columns = {"answer": "answer"}
    bare = sums.model_copy(update={"name": "bare", "path": "bare.jsonl", "group_by": None, "columns": columns})
    section_with = found.corpus.model_copy(update={"sources": [*found.corpus.sources, bare]})
    summary, stage = curated(found.model_copy(update={"corpus": section_with}), tmp_path / "run")
    assert sum(teacher.asked.values()) == 9
    samples = [sample for sample in read_jsonl(stage / "samples.jsonl", Sample) if sample.family == "bare"]
    assert Counter(sample.messages[0].content for sample in samples) == {question(1500 + n): 3 for n in range(9)}
    assert summary["problem_classes"]["bare"] == {"medium": 9}  # three of five were right
