"""Tasks of inspect_ai run as benchmarks of a recipe: tau2 with a simulated user, SciCode in our sandbox."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chat_server import Answer, chat_server, send
from h1r.cli.evaluate import part_of
from h1r.config import resolve
from h1r.delegate.inspect_tasks import _files_of
from h1r.errors import UserError
from h1r.evals.summary import benchmark_tables
from h1r.pipeline import run_stage
from h1r.report import write_report
from h1r.run.directory import Run
from small_checkpoint import small_checkpoint

inspect_ai = pytest.importorskip("inspect_ai")
pytest.importorskip("inspect_evals")
HERE = Path(__file__).parent
FIXED = "[mobile_data_issue]airplane_mode_on|data_mode_off[PERSONA:None]"
GIVEN_UP = "[mobile_data_issue]airplane_mode_on|user_abroad_roaming_enabled_off[PERSONA:None]"


def reply(message: dict[str, Any], finish_reason: str) -> dict[str, Any]:
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def calls(name: str) -> dict[str, Any]:
    call = {"id": f"call-{name}", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return reply({"tool_calls": [call]}, "tool_calls")


def scripted(decide: Any) -> Answer:
    """A server whose reply depends on the request alone."""
    return lambda handler, body: send(handler, 200, json.dumps(decide(body)).encode())


def person_or_agent(body: dict[str, Any]) -> dict[str, Any]:
    """The agent always asks for the same; the person of one task does it, the other has had enough."""
    if body["model"] == "agent":
        return reply({"content": "Please turn airplane mode off, and mobile data on."}, "stop")
    said = [one for one in body["messages"] if one["role"] in ("assistant", "tool")]
    if len(said) == 0:
        return reply({"content": "My mobile data does not work."}, "stop")
    if "abroad" in json.dumps(body["messages"][0]):
        return reply({"content": "###STOP###"}, "stop")
    used = [one["function"]["name"] for message in said for one in message.get("tool_calls") or []]
    for tool in ("toggle_airplane_mode", "toggle_data"):
        if tool not in used:
            return calls(tool)
    return reply({"content": "It works, thank you. ###STOP###"}, "stop")


def programmer(body: dict[str, Any]) -> dict[str, Any]:
    """Right in all functions but `half`."""
    name = re.findall(r"Write a function (\w+)", json.dumps(body["messages"][-1]))[-1]
    line = {"double": "2 * x", "half": "x / 3", "square": "x ** 2"}[name]
    return reply({"content": f"```python\ndef {name}(x):\n    return {line}\n```"}, "stop")


def recipe_for(url: str, benchmark: dict[str, Any], model: str = "agent") -> Any:
    endpoint = {"model": model, "prices": {model: {"prompt": 1.0, "completion": 2.0}}}
    engine = {"kind": "endpoint", "url": url, "max_sequences": 4, "endpoint": endpoint}
    asked = {"samples": 1, "max_tokens": 256, "benchmarks": [{"kind": "inspect", **benchmark}]}
    return resolve({"name": "delegated", "engine": engine, "eval": asked, "threads": 1}, None, "test")


def test_a_file_that_a_task_is_given_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    tasks, folder, cache = tmp_path / "tasks.json", tmp_path / "folder", tmp_path / "cache"
    folder.mkdir()
    benchmark = {
        "name": "t", "task": "inspect_evals/tau2_telecom", "files": str(folder),
        "args": {"tasks_file_override": str(tasks), "shuffle": False, "cache": str(cache)},
    }  # fmt: skip
    (section,) = recipe_for("http://localhost:1/v1", benchmark).eval.delegated
    found = []
    for run, (tasks_have, folder_has) in enumerate((("1", "1"), ("2", "1"), ("2", "2"), ("2", "2"))):
        tasks.write_text(tasks_have)
        (folder / "data.txt").write_text(folder_has)
        with _files_of(section, tmp_path / "t.json") as files:
            found.append(files)
            cache.write_text(f"what the task itself wrote in run {run}")
    assert found[0] != found[1] != found[2] == found[3]
    assert str(cache) not in found[3]


@pytest.mark.slow
def test_tau2_with_a_simulated_user(tmp_path: Path) -> None:
    from inspect_evals.tau2.telecom.dataset import TELECOM_TASKS_FILE

    every = json.loads(gzip.decompress(TELECOM_TASKS_FILE.read_bytes()))
    tasks = tmp_path / "tasks.json"
    tasks.write_text(json.dumps([one for one in every if one["id"] in (FIXED, GIVEN_UP)]))
    with chat_server(scripted(person_or_agent)) as server:
        recipe = recipe_for(
            server.url,
            {
                "name": "tau2-Telecom", "task": "inspect_evals/tau2_telecom", "expect": 2,
                "args": {"tasks_file_override": str(tasks), "shuffle": False, "message_limit": 100},
                "roles": {"user": {"model": "person", "url": server.url}},
            },
        )  # fmt: skip
        run = Run.open(tmp_path / "run", recipe)
        summary = run_stage("eval_base", recipe, run)
        asked = len(server.requests)
        assert {one["model"] for one in server.requests} == {"agent", "person"}
        assert summary["benchmarks"]["tau2-Telecom"]["pass_at_1"] == 0.5
        assert "unfinished" not in summary
        run_stage("eval_base", recipe, run)
        assert len(server.requests) == asked, "a finished task was run again"
    (path,) = (tmp_path / "run" / "eval" / "benchmarks" / "base").glob("*.samples.jsonl")
    rows = {row["problem_id"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert {name: row["verdict"]["reward"] for name, row in rows.items()} == {FIXED: 1.0, GIVEN_UP: 0.0}
    assert "toggle_airplane_mode" in rows[FIXED]["text"]
    assert rows[FIXED]["usage"]["completion_tokens"] > 0
    report = json.loads((write_report(run.path).parent / "report.json").read_text())
    assert [one["name"] for one in report["benchmarks"]] == ["tau2-Telecom"]
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(*benchmark_tables({"eval_base": summary}, recipe))
    assert "50.0%" in console.export_text()


def test_scicode_counts_sub_problems_and_whole_ones_in_our_sandbox(tmp_path: Path) -> None:
    asked = {
        "name": "SciCode", "task": f"{HERE / 'scicode_stand_ins.py'}@stand_ins",
        "args": {"data": str(tmp_path / "test_data.h5")}, "files": "inspect_evals:scicode/Dockerfile",
    }  # fmt: skip
    with chat_server(scripted(programmer)) as server:
        wrong = recipe_for(server.url, {**asked, "expect": 7})
        with pytest.raises(UserError, match="has 2 problems, and `expect` says 7"):
            run_stage("eval_base", wrong, Run.open(tmp_path / "run", wrong))
        requests = len(server.requests)
        recipe = recipe_for(server.url, {**asked, "expect": 2})
        summary = run_stage("eval_base", recipe, Run.open(tmp_path / "run", recipe))
        assert len(server.requests) == requests, "a task that was run is run again"
    found = summary["benchmarks"]
    assert (found["SciCode"]["problems"], found["SciCode-whole"]["problems"]) == (3, 2)
    assert found["SciCode"]["pass_at_1"] == pytest.approx(2 / 3)
    assert found["SciCode-whole"]["pass_at_1"] == 0.5


def agent_or_judge(body: dict[str, Any]) -> dict[str, Any]:
    """The agent says what it was asked for the colour of; the judge takes the sky's for right."""
    asked = json.dumps(body["messages"])
    if body["model"] == "agent":
        return reply({"content": "It is blue." if "sky" in asked else "It is grey."}, "stop")
    return reply({"content": f"GRADE: {'C' if 'It is blue' in asked else 'I'}"}, "stop")


def test_a_grader_of_its_own_scores_the_answers(tmp_path: Path) -> None:
    (tmp_path / "colours.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import MemoryDataset, Sample\n"
        "from inspect_ai.scorer import model_graded_qa\n"
        "from inspect_ai.solver import generate\n"
        "@task\n"
        "def colours():\n"
        "    samples = [Sample(input=f'What colour is the {one}?', target='blue') for one in ('sky', 'sea')]\n"
        "    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=model_graded_qa())\n"
    )
    with chat_server(scripted(agent_or_judge)) as server:
        asked = {
            "name": "colours", "task": f"{tmp_path / 'colours.py'}@colours", "expect": 2,
            "roles": {"grader": {"model": "judge", "url": server.url}},
        }  # fmt: skip
        recipe = recipe_for(server.url, asked)
        summary = run_stage("eval_base", recipe, Run.open(tmp_path / "run", recipe))
    assert sorted(one["model"] for one in server.requests) == ["agent", "agent", "judge", "judge"]
    assert summary["benchmarks"]["colours"]["pass_at_1"] == 0.5


def test_what_cannot_be_run_is_refused_with_a_sentence(tmp_path: Path) -> None:
    missing = recipe_for("http://127.0.0.1:9/v1", {"name": "none", "task": "inspect_evals/no_such_task"})
    with pytest.raises(UserError, match="no_such_task"):
        run_stage("eval_base", missing, Run.open(tmp_path / "a", missing))
    misspelt = {"kind": "inspect", "name": "n", "task": "t", "filez": "f"}
    with pytest.raises(UserError, match=r"key `eval\.benchmarks\.0\.filez`; did you mean `eval\.benchmarks\.0\.files`"):
        resolve({"name": "x", "eval": {"benchmarks": [misspelt]}}, None, "test")
    assert part_of(missing.eval, ["none"], 1).benchmarks[0].limit == 1


def test_inspect_finds_a_checkpoint_of_ours_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_checkpoint(tmp_path / "small")
    (tmp_path / "two.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import MemoryDataset, Sample\n"
        "from inspect_ai.scorer import includes\n"
        "from inspect_ai.solver import generate\n"
        "@task\n"
        "def two():\n"
        "    samples = [Sample(input=f'What is {n} + 2?', target='') for n in range(2)]\n"
        "    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes())\n"
    )
    monkeypatch.chdir(tmp_path)  # inspect_ai looks for files below the current directory
    (log,) = inspect_ai.eval(
        "two.py", model=f"h1r/{small}", display="none", max_tokens=6, seed=1, log_dir=str(tmp_path)
    )
    assert log.status == "success", log.error
    assert [one.output.usage.output_tokens for one in log.samples] == [6, 6]
    assert log.results.scores[0].metrics["accuracy"].value == 1.0
