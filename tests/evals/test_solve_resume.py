"""`h1r solve` on a file of problems: killed without warning and started again, through the real program."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file

import warm
from h1r.config import Recipe
from h1r.data.tokenizer import train_tokenizer
from h1r.errors import UserError
from h1r.evals.answers import open_checkpoint
from h1r.evals.solve_view import View
from h1r.evals.solving import solve
from h1r.models import build, save
from h1r.models.falcon_h1.config import preset
from h1r.records import Problem, write_jsonl
from h1r.run.directory import Run

RECIPE = Recipe.model_validate(
    {
        "name": "resume",
        "chat": {"system_prompt": ""},
        "engine": {"max_sequences": 8},
        "scaling": {
            "budgets": [16], "warmup": 4, "window": 4, "max_tokens": 24, "temperature": 1.0, "top_p": 1.0, "tau": None,
        },
    }
)  # fmt: skip
PROBLEMS = [Problem(id=f"p{k}", question=f"What is {k} + {k}?", answer=str(2 * k)) for k in range(1, 7)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose SFT model has random weights, and a file of problems in it."""
    run = Run.open(tmp_path_factory.mktemp("resume"), RECIPE)
    tokenizer = train_tokenizer([problem.question for problem in PROBLEMS], 300)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    save(build(preset("tiny", **small, **ends), seed=1), run.stage("sft") / "model", tokenizer)
    write_jsonl(run.path / "problems.jsonl", PROBLEMS)
    return run.path


def command(run: Path, out: Path) -> list[str]:
    return ["solve", str(run), str(run / "problems.jsonl"), "--out", str(out)]


def kill_when(process: warm.Process, file: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") >= lines):
        assert time.monotonic() < deadline
        if process.poll() is not None:
            return
        time.sleep(0.002)
    process.kill()
    process.wait()


@pytest.mark.slow  # starts the program several times
def test_a_kill_loses_nothing_and_doubles_nothing(run: Path, tmp_path: Path) -> None:
    whole = solve(str(run), str(run / "problems.jsonl"), RECIPE, out=tmp_path / "whole.jsonl")
    out = tmp_path / "out.jsonl"
    traces = tmp_path / "out.jsonl.traces"
    for file, lines in ((traces, 5), (out, 2)):  # in the first batch of problems, then in a later one
        kill_when(warm.start(*command(run, out)), file, lines)
        before = out.read_bytes()
    done = warm.run(*command(run, out), "--json")
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [row["problem_id"] for row in json.loads(done.stdout)] == [one.problem_id for one in whole]
    assert not traces.exists()


@pytest.mark.slow  # starts the program several times
def test_traces_that_ended_are_not_generated_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    traces = tmp_path / "out.jsonl.traces"
    process = warm.start(*command(run, out))
    kill_when(process, traces, 7)
    kept = traces.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert kept.count(b"\n") >= 7
    again = warm.start(*command(run, out))
    kill_when(again, traces, kept.count(b"\n") + 1)
    assert traces.read_bytes().startswith(kept)


class Interrupting(View):
    """Ctrl-C after so many looks."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_run_interrupted_anywhere_ends_as_an_unbroken_one(run: Path, tmp_path: Path) -> None:
    problems = str(run / "problems.jsonl")
    whole = solve(str(run), problems, RECIPE, out=tmp_path / "whole.jsonl")
    out = tmp_path / "out.jsonl"
    for looks in (10, 60, 100, 3):
        with pytest.raises(KeyboardInterrupt):
            solve(str(run), problems, RECIPE, out=out, view=Interrupting(looks))
    assert 0 < len(out.read_text().splitlines()) < len(PROBLEMS)
    assert solve(str(run), problems, RECIPE, out=out) == whole
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "out.jsonl.traces").exists()


def test_solved_problems_are_not_solved_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.jsonl"
    first = solve(str(run), str(run / "problems.jsonl"), RECIPE, out=out)

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded for problems that are all solved")

    monkeypatch.setattr("h1r.evals.solving.open_checkpoint", refuse)
    assert solve(str(run), str(run / "problems.jsonl"), RECIPE, out=out) == first


def test_problems_that_join_the_file_are_solved_beside_those_that_were(run: Path, tmp_path: Path) -> None:
    few, all_of_them = tmp_path / "few.jsonl", tmp_path / "all.jsonl"
    write_jsonl(few, PROBLEMS[1:3])
    write_jsonl(all_of_them, PROBLEMS[:3])
    first = solve(str(run), str(few), RECIPE, out=tmp_path / "out.jsonl")
    second = solve(str(run), str(all_of_them), RECIPE, out=tmp_path / "out.jsonl")
    assert second[1:] == first
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_a_model_of_the_hub_is_known_by_the_commit_that_came_and_not_by_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is of an earlier commit, or of none, until the model has come."""
    cache, published, loaded = [""], ["a" * 40], []

    def opened(name: str, recipe: Recipe) -> Any:
        assert name == "owner/model"
        loaded.append(cache.__setitem__(0, published[0]))
        return open_checkpoint(str(run), recipe)

    monkeypatch.setattr("h1r.evals.solving.open_checkpoint", opened)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, file: cache[0] and f"/{cache[0]}/{file}")
    out = tmp_path / "out.jsonl"
    first = solve("owner/model", "What is 1 + 1?", RECIPE, out=out)
    assert solve("owner/model", "What is 1 + 1?", RECIPE, out=out) == first
    assert len(out.read_text().splitlines()) == 1
    published[0] = "b" * 40
    with pytest.raises(UserError, match="other weights"):
        solve("owner/model", "What is 1 + 1?", RECIPE, out=out)
    solve("owner/model", "What is 1 + 1?", RECIPE)
    assert len(loaded) == 4


def test_results_of_other_settings_are_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    solve(str(run), "What is 1 + 1?", RECIPE, out=out)
    with pytest.raises(
        UserError, match=r"out\.jsonl, line 1: made with another checkpoint \(or other weights in it\), seed"
    ):
        solve(str(run), "What is 1 + 1?", RECIPE, seed=1, out=out)
    with pytest.raises(UserError, match="line 1: no result of"):
        solve(str(run), "What is 1 + 1?", RECIPE, out=run / "problems.jsonl")


def test_results_of_the_weights_before_are_refused(run: Path, tmp_path: Path) -> None:
    """The same command after RL, which the run directory then stands for; and after training anew."""
    copy, out = tmp_path / "run", tmp_path / "out.jsonl"
    shutil.copytree(run, copy)
    solve(str(copy), "What is 1 + 1?", RECIPE, out=out)
    assert len(solve(str(copy), "What is 1 + 1?", RECIPE, out=out)) == 1
    shutil.copytree(run / "sft" / "model", copy / "rl" / "model")
    with pytest.raises(UserError, match="other weights in it"):
        solve(str(copy), "What is 1 + 1?", RECIPE, out=out)
    shutil.rmtree(copy / "rl")
    assert len(solve(str(copy), "What is 1 + 1?", RECIPE, out=out)) == 1
    file = copy / "sft" / "model" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError, match="other weights in it"):
        solve(str(copy), "What is 1 + 1?", RECIPE, out=out)


def test_a_result_for_another_question_of_the_same_id_is_refused(run: Path, tmp_path: Path) -> None:
    first, second, out = tmp_path / "first.jsonl", tmp_path / "second.jsonl", tmp_path / "out.jsonl"
    write_jsonl(first, [Problem(id="p", question="What is 1 + 1?", answer="2")])
    write_jsonl(second, [Problem(id="p", question="What is 1 + 2?", answer="3")])
    solve(str(run), str(first), RECIPE, out=out)
    with pytest.raises(UserError, match="its result for `p` answers another question"):
        solve(str(run), str(second), RECIPE, out=out)


def test_two_problems_of_one_id_are_refused(run: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [PROBLEMS[0], PROBLEMS[0]])
    with pytest.raises(UserError, match="two problems have the id `p1`"):
        solve(str(run), str(tmp_path / "x.jsonl"), RECIPE)
