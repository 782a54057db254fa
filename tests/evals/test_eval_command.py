"""`h1r eval` without curated data: a model behind an API, benchmarks from files, parts of them, what it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, chat_server, fails, says, send
from h1r.cli import main
from h1r.cli.evaluate import part_of, tables_of
from h1r.config import BenchmarkSection, EndpointSection, EvalSection, PriceSection
from h1r.errors import UserError
from h1r.evals.benchmarks import load_benchmark
from h1r.evals.cost import cost_of
from h1r.evals.summary import benchmark_line
from h1r.scaling.intervals import wilson

Eval = Callable[..., tuple[int, Any]]


def sums(handler: Any, body: dict[str, Any]) -> None:
    """Adds what it is asked to, but to 17."""
    number = int(body["messages"][-1]["content"].split()[1])
    said = number + 4 + (number == 17)
    message = {"content": rf"\boxed{{{said}}}", "reasoning_content": "hm"}
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 5}}
    reply = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    send(handler, 200, json.dumps(reply).encode())


def write_sums(path: Path, count: int = 10) -> None:
    rows = [{"problem": f"Take {n} and add four.", "expected_answer": str(n + 4)} for n in range(10, 10 + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Eval:
    """Runs `h1r eval` in an empty directory: its exit code, and its JSON or its sentence."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, Any]:
        try:
            code = main(["eval", *arguments, "--json"])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out.startswith("{") else said.err

    return run


def asked(server: ChatServer, *more: str) -> tuple[str, ...]:
    return ("--url", server.url, "--model", "adder", "--set", "eval.samples=2", *more)


def test_a_model_of_an_api_is_evaluated_by_one_command_and_asked_once(evaluated: Eval) -> None:
    write_sums(Path("sums.jsonl"))
    with chat_server(sums) as server:
        code, found = evaluated(*asked(server, "--benchmark", "sums.jsonl"))
        assert (code, len(server.requests)) == (0, 20)
        result = found["eval_base"]["benchmarks"]["sums"]
        assert (result["pass_at_1"], result["cons_at_n"], result["per_repeat"]) == (0.9, 0.9, [0.9, 0.9])
        assert result["usage"] == {
            "prompt_tokens": 200, "completion_tokens": 400, "reasoning_tokens": 100, "cached_tokens": 0,
        }  # fmt: skip
        rows = [json.loads(line) for line in next(Path("runs/adder").rglob("*.samples.jsonl")).open()]
        assert (rows[0]["tokens"], rows[0]["usage"]["prompt_tokens"], rows[0]["verdict"]["reward"]) == (20, 10, 1.0)
        votes = result["budgets"]
        assert votes["lacks"] == ["confidences"]
        at_two = {"accuracy": 0.9, "interval": list(wilson(9, 10)), "tokens": 400.0}
        assert votes["rows"][1] == {"budget": 2, "majority": at_two, "deepconf": None}
        other = evaluated(*asked(server, "--benchmark", "sums.jsonl", "--set", 'scaling.method="short_1"'))
        assert len(server.requests) == 20  # another method is priced on the answers that are there
        assert other[1]["eval_base"]["benchmarks"]["sums"]["budgets"]["rows"][1]["deepconf"]["tokens"] == 400


def test_a_model_of_the_same_name_elsewhere_is_asked_anew(evaluated: Eval) -> None:
    write_sums(Path("sums.jsonl"))

    def scored(server: ChatServer, url: str, *more: str) -> tuple[float, int]:
        before = len(server.requests)
        found = evaluated(*asked(server, "--benchmark", "sums.jsonl", "--url", url, *more)[2:])[1]
        return found["eval_base"]["benchmarks"]["sums"]["pass_at_1"], len(server.requests) - before

    with chat_server(sums) as first, chat_server(says(r"\boxed{0}")) as second:
        elsewhere = second.url.replace("/v1", "/other/v1")
        assert scored(first, first.url) == (0.9, 20)
        assert scored(second, second.url) == (0.9, 0)  # the port alone is new
        assert scored(second, elsewhere) == (0.0, 20)
        assert scored(second, elsewhere, "--set", "engine.endpoint.same_as=localhost/v1") == (0.9, 0)


def test_each_benchmark_says_its_row_when_it_ends(evaluated: Eval, capsys: pytest.CaptureFixture[str]) -> None:
    write_sums(Path("sums.jsonl"))
    write_sums(Path("few.jsonl"), 3)

    def short(handler: Any, body: dict[str, Any]) -> None:
        """The first benchmark's row stands there before the second one is asked anything."""
        if len(server.requests) == 21:
            said.append(capsys.readouterr().err)
        sums(handler, body)

    said: list[str] = []
    with chat_server(short) as server:
        arguments = asked(server, "--benchmark", "sums.jsonl", "--benchmark", "few.jsonl")
        with pytest.raises(SystemExit, match="0"):
            main(["eval", *arguments])
        said.append(capsys.readouterr().err)
        assert re.findall(r"^sums: 90\.0% \(.* to .*\), 10 x 2 answers, mean tokens 20$", said[0], re.M)
        assert "few: 100.0%" not in said[0]
        assert "few: 100.0%" in said[1]
        with pytest.raises(SystemExit, match="0"):
            main(["eval", *arguments, "--json"])
        assert "100.0%" not in capsys.readouterr().err


def test_a_row_names_the_faults_that_there_are() -> None:
    found = {"pass_at_1": 0.5, "interval": None, "problems": 30, "samples_per_problem": 1, "mean_tokens": 12345.6,
             "truncated": 0.25, "no_answer": 0.0, "unscored": 0.125, "error": 0.125}  # fmt: skip
    assert benchmark_line("b", found) == "b: 50.0%, 30 x 1 answer, mean tokens 12,346, 25.0% cut off, 25.0% unscored"
    assert "tokens" not in benchmark_line("b", {**found, "mean_tokens": None})
    room = {"max_tokens": 500, "lowered": 12, "least": 20, "none": 1}
    assert benchmark_line("b", {**found, "room": room}).endswith(
        ", of 30 prompts 12 left less room than max_tokens = 500 (20 tokens at least) "
        "and 1 left no room for an answer, which no score has"
    )


def test_a_part_is_filed_apart_and_another_benchmark_joins_the_run(evaluated: Eval) -> None:
    write_sums(Path("sums.jsonl"))
    write_sums(Path("few.jsonl"), 3)
    with chat_server(sums) as server:
        both = asked(server, "--benchmark", "sums.jsonl", "--benchmark", "few.jsonl")
        assert list(evaluated(*both, "--only", "sums", "--limit", "4")[1]["eval_base"]["benchmarks"]) == ["sums-first4"]
        assert not Path("runs/adder/done/eval_base.json").exists()
        assert list(evaluated(*both)[1]["eval_base"]["benchmarks"]) == ["sums", "few"]
        assert Path("runs/adder/done/eval_base.json").exists()
        assert len(server.requests) == 8 + 20 + 6
    code, said = evaluated(*both, "--only", "much")
    assert code == 2
    assert "no benchmark is called much; there are sums, few" in said


def test_credit_that_runs_out_costs_no_answer(evaluated: Eval) -> None:
    write_sums(Path("sums.jsonl"))
    with chat_server(fails(402), *[sums] * 7) as server:
        code, said = evaluated(*asked(server, "--benchmark", "sums.jsonl", "--set", "engine.max_sequences=2"))
        assert code == 2
        assert "out of credit" in said
    with chat_server(sums) as again:
        arguments = list(asked(again, "--benchmark", "sums.jsonl"))
        code, found = evaluated(*arguments)
    assert (code, len(again.requests)) == (0, 20 - 7)
    assert found["eval_base"]["benchmarks"]["sums"]["pass_at_1"] == 0.9


def test_a_judge_that_is_down_leaves_the_stage_unfinished_and_is_asked_alone_later(evaluated: Eval) -> None:
    rows = [{"problem": "Say four.", "expected_answer": "4"}, {"problem": "Say it.", "expected_answer": "a herd"}]
    Path("said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("b.toml").write_text(
        '[[eval.benchmarks]]\nname = "said"\nkind = "jsonl"\npath = "said.jsonl"\nverifier = "judge"\n'
        'columns = { question = "problem", answer = "expected_answer" }\n'
    )
    done = Path("runs/adder/done/eval_base.json")
    with chat_server(says(r"\boxed{4}")) as server, chat_server(fails(500)) as judge:
        arguments = asked(
            server, "--benchmark", "b.toml", "--set", "judge.model=j", "--set", f'judge.urls=["{judge.url}"]',
            "--set", "judge.attempts=1",
        )  # fmt: skip
        code, found = evaluated(*arguments)
        result = found["eval_base"]["benchmarks"]["said"]
        # What equals its reference needs no judge; the other is neither right nor wrong.
        assert (code, result["unscored"], result["pass_at_1"]) == (1, 0.5, 1.0)
        assert found["eval_base"]["unfinished"] == 2
        assert judge.requests
        assert not done.exists()
        judge.usual = says("VERDICT: INCORRECT")
        code, found = evaluated(*arguments)
        assert (code, len(server.requests)) == (0, 4)
    result = found["eval_base"]["benchmarks"]["said"]
    assert (result["unscored"], result["pass_at_1"]) == (0.0, 0.5)
    assert done.exists()


def test_the_key_is_in_no_file_of_the_run(evaluated: Eval, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADDER_KEY", "secret-of-adder")
    write_sums(Path("sums.jsonl"), 2)
    with chat_server(sums) as server:
        evaluated(*asked(server, "--benchmark", "sums.jsonl", "--key-variable", "ADDER_KEY"))
        assert {one["authorization"] for one in server.headers} == {"Bearer secret-of-adder"}
    assert not any(b"secret-of-adder" in file.read_bytes() for file in Path().rglob("*") if file.is_file())


def test_what_says_too_little_is_refused(evaluated: Eval) -> None:
    for arguments in ((), ("--model", "m"), ("--benchmark", "x.jsonl")):
        assert "give a recipe, or a checkpoint and --benchmark" in evaluated(*arguments)[1]
    Path("odd.jsonl").write_text('{"text": "What?", "gold": "1"}\n')
    assert "no question or problem or prompt" in evaluated("--model", "m", "--benchmark", "odd.jsonl")[1]
    assert "no such file" in evaluated("--model", "m", "--benchmark", "none.jsonl")[1]
    assert "stands alone" in evaluated("tiny", "--model", "m", "--model", "rl")[1]


def test_a_table_of_benchmarks_is_read_from_a_toml_file(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text('[[eval.benchmarks]]\nname = "b"\nkind = "jsonl"\npath = "x.jsonl"\n')
    assert tables_of(str(tmp_path / "b.toml")) == [{"name": "b", "kind": "jsonl", "path": "x.jsonl"}]
    (tmp_path / "none.toml").write_text("name = 'x'\n")
    with pytest.raises(UserError, match="has no"):
        tables_of(str(tmp_path / "none.toml"))


def test_a_file_with_options_shows_them_and_is_graded_by_letters(tmp_path: Path) -> None:
    """A model that never saw the options would be graded on a letter, or an index, in silence."""
    mmlu = {"question": "Which is even?", "choices": ["3", "4", "5"], "answer": "B"}
    (tmp_path / "mmlu.jsonl").write_text(json.dumps(mmlu) + "\n" + json.dumps({**mmlu, "answer": 1}) + "\n")
    (table,) = tables_of(str(tmp_path / "mmlu.jsonl"))
    found = load_benchmark(BenchmarkSection(**table))
    assert [problem.answer for problem in found.problems] == ["B"]
    assert "A) 3\nB) 4\nC) 5" in found.problems[0].question
    assert "wants index_from" in found.unusable[0]["detail"]
    with pytest.raises(UserError, match="options"):
        tables_of(str(tmp_path / "mmlu.jsonl"), prompt="{question} Answer with a letter.")
    row = {"question": "Which is even?", "A": "3", "B": "4", "C": "5", "D": "7", "answer": "B"}
    (tmp_path / "columns.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="a column for each option"):
        tables_of(str(tmp_path / "columns.jsonl"))


def test_a_part_leaves_the_held_out_problems_out() -> None:
    section = EvalSection(benchmarks=[BenchmarkSection(name="b", kind="jsonl", path="x", expect=30)])
    assert part_of(section, [], 0) == section
    part = part_of(section, ["b"], 5)
    assert (part.held_out, part.benchmarks[0].limit, part.benchmarks[0].expect) == (False, 5, 0)


def test_a_part_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="take a part of benchmarks, and the recipe has none"):
        part_of(EvalSection(), [], 5)


def test_the_cost_is_that_of_the_models_prices() -> None:
    usage = {"prompt_tokens": 3_000_000, "cached_tokens": 1_000_000, "completion_tokens": 500_000}
    result = {"usage": usage, "of": {"engine": {"model": "m"}}}
    section = EndpointSection(prices={"m": PriceSection(prompt=2.0, completion=8.0, cached=0.5)}, currency="EUR")
    cost = cost_of(result, section)
    assert cost is not None
    assert (cost.amount, cost.currency) == (pytest.approx(2 * 2.0 + 0.5 + 4.0), "EUR")
    assert cost_of({**result, "usage": None}, section) is None
    assert cost_of(result, EndpointSection()) is None
