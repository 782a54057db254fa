"""Data of one's own, a command each, as a stranger types them in an empty directory."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import warm
from h1r.config import load_recipe
from h1r.evals.answers import recipe_of, sampling_of
from h1r.report.collect import collect
from h1r.run.directory import knows_turns, stored_defaults
from h1r.serve.talk import open_talker
from small_checkpoint import small_checkpoint

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ROWS = [{"problem": f"Say {word}.", "solution": word} for word in ("red", "blue", "green")]
FAST = ("--set", "scaling.budgets=[2]", "--set", "scaling.warmup=2", "--set", "scaling.max_tokens=8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture
def h1r(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: warm.run(*arguments, cwd=tmp_path)


def write(name: str, rows: list[dict[str, Any]]) -> str:
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), name)
    elif name.endswith(".json"):
        Path(name).write_text(json.dumps(rows))
    else:
        Path(name).write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_a_file_whose_name_has_spaces_is_read_and_not_asked(h1r: Command, model: Path) -> None:
    Path("my own é.jsonl").write_text('{"question": "Say 4."}\r\n{"question": "Say 5."}\r\n', encoding="utf-8")
    done = h1r("solve", model, "my own é.jsonl", *FAST, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 2


@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own.parquet"])
def test_a_checkpoint_is_evaluated_on_a_file_of_any_format(h1r: Command, model: Path, name: str) -> None:
    write(name, [{"text": "Say 4.", "gold": "4"}, {"text": "Say 5.", "gold": "5"}])
    asked = ("eval", model, "--benchmark", name)
    missing = h1r(*asked)
    assert missing.returncode == 2
    assert f"{name} has no question or problem or prompt; name its column, as in --columns question" in missing.stderr
    assert "there are text, gold" in missing.stderr
    short = ("--set", "eval.samples=2", "--set", "eval.max_tokens=4", "--json")
    wrong = h1r(*asked, "--columns", "question=txt,answer=gold")
    assert f"h1r: {name} has no column `txt`; did you mean `text`?" in wrong.stderr
    done = h1r(*asked, "--columns", "question=text", "--columns", "answer=gold", "--prompt", "{question}", *short)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["eval_base"]["benchmarks"]["own"]
    assert (found["problems"], found["samples_per_problem"]) == (2, 2)
    answers = next(Path("runs").rglob("*.samples.jsonl")).read_text()
    assert '"Say 4."' in answers
    assert '"Say 5."' in answers


def test_a_checkpoint_alone_is_no_evaluation(h1r: Command, model: Path) -> None:
    assert "is a checkpoint; say what to ask it, as in --benchmark FILE.jsonl" in h1r("eval", model).stderr
    two = h1r("eval", model, "--model", "other", "--benchmark", "x.jsonl")
    assert "is a checkpoint, and so is --model other; name one" in two.stderr
    own = write("own.jsonl", [{"question": "1?", "answer": "1"}])
    assert "no benchmark is called other" in h1r("eval", model, "--benchmark", own, "--only", "other").stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own.parquet"])
def test_solve_reads_problems_with_answers_or_without(h1r: Command, model: Path, name: str) -> None:
    write(name, [{"key": "a", "ask": "Say 4.", "gold": "4"}, {"key": "b", "ask": "Say 5.", "gold": None}])
    columns = ("--columns", "question=ask,answer=gold,id=key")
    done = h1r("solve", model, name, *columns, *FAST, "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert (first["problem_id"], first["question"], second["problem_id"]) == ("a", "Say 4.", "b")
    assert first["correct"] in (True, False)
    assert second["correct"] is None
    bare = json.loads(h1r("solve", model, name, "--columns", "question=ask", *FAST, "--json").stdout)
    assert [one["correct"] for one in bare] == [None, None]
    assert len({one["problem_id"] for one in bare}) == 2


def test_solve_says_what_is_wrong_with_a_file(h1r: Command, model: Path) -> None:
    write("empty.jsonl", [])
    assert "empty.jsonl holds no problem" in h1r("solve", model, "empty.jsonl").stderr
    write("twice.jsonl", [{"id": "a", "question": "1?"}, {"id": "a", "question": "2?"}])
    assert "two rows have the id `a`" in h1r("solve", model, "twice.jsonl").stderr
    write("hole.jsonl", [{"question": "1?"}, {"question": ""}])
    assert "hole.jsonl, row 2: column `question` is empty" in h1r("solve", model, "hole.jsonl").stderr
    write("same.jsonl", [{"question": "1?"}, {"question": "1?"}])
    done = h1r("solve", model, "same.jsonl", *FAST)
    assert "same.jsonl: 1 row with a question that stands there before: it is asked once" in done.stderr
    assert "--columns is for a file of problems" in h1r("solve", model, "1+1", "--columns", "question=a").stderr


CHATS = {
    "messages": [
        {"messages": [{"role": "user", "content": row["problem"]}, {"role": "assistant", "content": row["solution"]}]}
        for row in ROWS
    ],
    "question and answer": [{"question": row["problem"], "answer": row["solution"]} for row in ROWS],
    "columns": [{"ask": row["problem"], "say": row["solution"]} for row in ROWS],
}


def test_sft_learns_a_file_of_chats_without_curation(h1r: Command, model: Path) -> None:
    write("own.jsonl", CHATS["messages"])
    learn = (
        "sft",
        "own.jsonl",
        "--model",
        model,
        "--set",
        "sft.epochs=60",
        "--set",
        "sft.optimizer.learning_rate=2e-2",
    )
    done = h1r(*learn)
    assert done.returncode == 0, done.stderr
    assert "sft is finished; the model is runs/own/sft/model" in done.stdout
    asked = [part for row in ROWS for part in ("-p", row["problem"])]
    done = h1r("generate", "runs/own", *asked, "--temperature", "0", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [trace["text"] for trace in said] == [row["solution"] for row in ROWS]
    assert "runs/own/sft is finished; add --resume" in h1r(*learn).stderr


def test_every_shape_of_a_file_gives_the_same_model(h1r: Command, model: Path) -> None:
    weights = set()
    for place, (shape, suffix) in enumerate([*((shape, "jsonl") for shape in CHATS), ("messages", "parquet")]):
        columns = ("--columns", "question=ask", "--columns", "answer=say") if shape == "columns" else ()
        file = write(f"own.{suffix}", CHATS[shape])
        done = h1r("sft", file, "--model", model, *columns, "--out", place, "--set", "sft.epochs=1")
        assert done.returncode == 0, done.stderr
        weights.add(Path(f"{place}/sft/model/model.safetensors").read_bytes())
    assert len(weights) == 1


def test_sft_on_a_file_keeps_weights_in_float32_and_learns_a_small_model_faster(h1r: Command, tmp_path: Path) -> None:
    """As stored, in bfloat16, they would hardly move at such a rate."""
    write("own.jsonl", CHATS["messages"])
    narrow = tmp_path / "narrow"
    done = h1r("export", small_checkpoint(tmp_path / "small"), "--to", "hf", "--out", narrow)
    assert done.returncode == 0, done.stderr
    weights = load_file(narrow / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, narrow / "model.safetensors")
    done = h1r("sft", "own.jsonl", "--model", narrow, "--set", "sft.epochs=1")
    assert done.returncode == 0, done.stderr
    learnt = load_file("runs/own/sft/model/model.safetensors")
    assert {tensor.dtype for tensor in learnt.values()} == {torch.float32}
    rates = []
    for place in (narrow, tmp_path / "large"):
        place.mkdir(exist_ok=True)
        if place != narrow:
            save_file({"one": torch.zeros(10_000_000, dtype=torch.int8)}, place / "model.safetensors")
        said = h1r("sft", "own.jsonl", "--model", place, "--dry-run", "--json").stdout
        rates.append(json.loads(said)["sft"]["optimizer"]["learning_rate"])
    assert rates == [3e-3, 3e-5]


def test_a_model_that_learnt_a_file_is_evaluated_in_its_run(h1r: Command, model: Path) -> None:
    write("own.jsonl", ROWS)
    h1r("sft", "own.jsonl", "--model", model, "--set", "sft.epochs=1")
    short = ("--set", "eval.samples=1", "--set", "eval.max_tokens=4", "--json")
    done = h1r("eval", "runs/own", "--benchmark", "own.jsonl", "--columns", "answer=solution", *short)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == ["eval_base", "eval_sft"]
    assert h1r("report", "runs/own").returncode == 0
    assert h1r("sft", "own.jsonl", "--model", "runs/own", "--out", "more", "--set", "sft.epochs=1").returncode == 0


def test_a_model_that_learnt_a_file_is_asked_as_the_one_before(h1r: Command) -> None:
    write("own.jsonl", ROWS)
    done = h1r("sft", "own.jsonl", "--model", "h1r:small", "--columns", "answer=solution", "--set", "sft.epochs=1")
    assert done.returncode == 0, done.stderr
    before, learnt = stored_defaults("h1r:small")["scaling"], stored_defaults("runs/own")["scaling"]
    assert {key for key in before if before[key] != learnt[key]} == {"max_tokens"}
    asked, now = (sampling_of(name) for name in ("h1r:small", "runs/own/sft/model"))
    assert {key for key in asked if asked[key] != now[key]} == {"max_tokens"}
    assert now["max_tokens"] == recipe_of("runs/own").scaling.max_tokens == 2048  # half of its positions
    for place in ("runs/own", "runs/own/sft/model"):
        done = h1r("solve", place, "What is 2 + 3?", "--set", "scaling.budgets=[2]", "--set", "scaling.warmup=2")
        assert done.returncode == 0, done.stderr


def test_a_model_that_learnt_turns_is_asked_with_them(h1r: Command) -> None:
    told = [{"role": "user", "content": "Say 4."}, {"role": "assistant", "content": "4"}]
    write("single.jsonl", [{"messages": told}] * 3)
    write("turns.jsonl", [{"messages": told}, {"messages": [*told, *told]}])
    for name, alone in (("single", True), ("turns", False)):
        done = h1r("sft", f"{name}.jsonl", "--model", "h1r:small", "--set", "sft.epochs=1")
        assert done.returncode == 0, done.stderr
        assert knows_turns(f"runs/{name}") is not alone
        with open_talker(f"runs/{name}", None, {}) as talker:
            assert talker.alone is alone


def test_the_report_of_a_run_on_a_file_lacks_nothing_that_it_never_has(h1r: Command) -> None:
    write("own.jsonl", ROWS)
    done = h1r("sft", "own.jsonl", "--model", "h1r:small", "--columns", "answer=solution", "--set", "sft.epochs=1")
    assert done.returncode == 0, done.stderr
    assert h1r("report", "runs/own").returncode == 0
    assert "This run is not complete" not in Path("runs/own/report.html").read_text()
    (Path("runs/own") / "scaling").mkdir()  # begun, and stopped
    assert [part.file for part in collect("runs/own").missing] == ["scaling/result.json"]


def test_settings_of_curation_spoil_no_model_that_was_trained_on_a_file(h1r: Command) -> None:
    write("own.jsonl", ROWS)
    short = ("--set", "eval.samples=1", "--set", "eval.max_tokens=4", "--set", "controls.enabled=false", "--json")
    assert h1r("sft", "own.jsonl", "--model", "h1r:small", "--columns", "answer=solution").returncode == 0
    done = h1r("eval", "runs/own", "--benchmark", "own.jsonl", "--columns", "answer=solution", *short)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_votes_on_a_benchmark_as_it_says(h1r: Command) -> None:
    write("own.jsonl", [{"question": f"What is {n} + {n + 3}?", "answer": str(2 * n + 3)} for n in range(11, 15)])
    done = h1r("eval", "h1r:small", "--benchmark", "own.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    stored = stored_defaults("h1r:small")["scaling"]
    told = json.loads(Path("runs/h1r-small/recipe.json").read_text())["scaling"]
    assert {key: told[key] for key in stored} == stored


def test_problems_that_cannot_be_trusted_are_left_out_of_a_file_and_said(h1r: Command) -> None:
    """`3 + 0` is solved by repeating it."""
    write("own.jsonl", [{"question": f"What is 3 + {n}?", "answer": str(3 + n)} for n in range(3)])
    short = ("--set", "eval.samples=1", "--set", "eval.max_tokens=8")
    done = h1r("eval", "h1r:small", "--benchmark", "own.jsonl", *short, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["eval_base"]["benchmarks"].values()
    assert found["problems"] == 2
    told = h1r("eval", "h1r:small", "--benchmark", "own.jsonl", *short, "--out", "again").stderr
    assert re.search(r"1 of 3 problems is unusable \(.*\), and left out; --set controls.in_eval=report", told)
    asked = h1r("eval", "h1r:small", "--benchmark", "own.jsonl", *short, "--set", "controls.in_eval=report", "--json")
    (found,) = json.loads(asked.stdout)["eval_base"]["benchmarks"].values()
    assert found["problems"] == 3
    assert "no such file; check the path" in h1r("eval", "h1r:small", "--benchmark", "gone.jsonl").stderr
    assert "a problem has no field `foo`" in h1r("solve", "h1r:small", "own.jsonl", "--columns", "foo=question").stderr


def test_sft_says_what_is_wrong_with_a_file(h1r: Command, model: Path) -> None:
    write("own.jsonl", [{"a": "1", "b": "2"}])
    assert "is a file of data; say what to fine-tune on it, as in --model" in h1r("sft", "own.jsonl").stderr
    lost = h1r("sft", "own.jsonl", "--model", model)
    assert (
        "has no chat, and no question; name its column, as in --columns question=NAME (there are a, b)" in lost.stderr
    )
    assert "no file none.jsonl" in h1r("sft", "none.jsonl", "--model", model).stderr
    write("own.jsonl", [{"question": "1?", "answer": ""}])
    silent = h1r("sft", "own.jsonl", "--model", model)
    assert (silent.returncode, "no row can be trained on" in silent.stderr) == (2, True)
    write("own.jsonl", [{"question": "1?", "answer": "1"}, {"question": "2?"}])
    assert "1 row is left out; 1: no column `answer`" in h1r("sft", "own.jsonl", "--model", model).stderr


EMPTY = [
    *("verify none.jsonl", "verify --validate none.jsonl", "verify --json blank.jsonl", "verify -"),
    *(f"eval MODEL --benchmark none.{kind}" for kind in ("jsonl", "csv", "parquet", "toml")),
    *("solve MODEL none.jsonl", "solve MODEL none.json", "solve MODEL -", "generate MODEL -p -"),
    *(f"sft none.{kind} --model MODEL" for kind in ("jsonl", "json", "csv", "parquet")),
    *("sft blank.jsonl --model MODEL", "rl tiny --model MODEL --problems none.jsonl", "curate none.toml"),
    *("sft sft.toml", "eval eval.toml", "curate curate.toml", "rl rl.toml"),
]
"""Commands of which each is given nothing: an empty file, blank lines, a recipe of `init` that names an empty file."""


@pytest.mark.parametrize("words", EMPTY)
def test_an_empty_file_is_a_mistake_that_leaves_no_run(h1r: Command, model: Path, words: str) -> None:
    for kind in ("jsonl", "json", "csv", "parquet", "toml"):
        Path(f"none.{kind}").touch()
    Path("blank.jsonl").write_text("\n \n")
    task = Path(words.split()[-1]).stem
    if f"{task} {task}.toml" == words:
        assert h1r("init", task, "--model", model, "--data", "none.jsonl").returncode == 0
    done = h1r(*(str(model) if word == "MODEL" else word for word in words.split()))
    said = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout, said[:5]) == (2, "", "h1r: ")
    assert "; " in said, "what to do"
    assert not Path("runs").exists(), "nor the directory of runs"


def test_what_failed_after_it_had_made_something_stays(h1r: Command, model: Path) -> None:
    write("own.jsonl", ROWS)
    learn = ("sft", "own.jsonl", "--model", model, "--set", "sft.epochs=1")
    assert h1r(*learn).returncode == 0
    before = sorted(Path("runs/own").rglob("*.safetensors"))
    assert h1r(*learn).returncode == 2
    assert (
        h1r("eval", "runs/own", "--benchmark", write("other.jsonl", [{"question": "", "answer": ""}])).returncode == 2
    )
    assert sorted(Path("runs/own").rglob("*.safetensors")) == before != []
    Path("mine").mkdir()
    write("none.jsonl", [])
    assert h1r("sft", "none.jsonl", "--model", model, "--out", "mine").returncode == 2
    assert Path("mine").is_dir(), "it was there before"


@pytest.mark.parametrize("task", ["sft", "rl", "eval", "curate"])
def test_init_writes_a_recipe_that_resolves(h1r: Command, model: Path, task: str) -> None:
    write("own.jsonl", [{"question": row["problem"], "answer": row["solution"]} for row in ROWS])
    done = h1r("init", task, "mine.toml", "--model", model, "--data", "own.jsonl")
    assert done.stdout == "wrote mine.toml\n"
    assert done.stderr == f"run `h1r {task} mine.toml`\n"
    assert Path("mine.toml").read_text().count("#") >= 8
    assert h1r(task, "mine.toml", "--dry-run").returncode == 0
    assert str(model) in load_recipe("mine.toml").model_dump_json()
    if task in ("sft", "rl"):  # what billions of parameters are trained with moves nothing here
        h1r("init", task, "large.toml", "--model", "owner/name", "--data", "own.jsonl")
        found = [getattr(load_recipe(name), task) for name in ("mine.toml", "large.toml")]
        assert [one.optimizer.learning_rate for one in found] == {"sft": [3e-3, 3e-5], "rl": [1e-4, 1e-6]}[task]
        assert [one.compute_dtype for one in found] == ["float32", "stored"]
    assert "mine.toml is there already" in h1r("init", task, "mine.toml").stderr
    assert 'put your own in for "CHECKPOINT" and "DATA", then run' in h1r("init", task).stderr


@pytest.mark.parametrize("task", ["sft", "rl", "eval", "curate"])
def test_a_recipe_with_placeholders_is_refused_by_key_and_file(h1r: Command, task: str) -> None:
    h1r("init", task)
    keys = re.findall(r'(\w+) = "(CHECKPOINT|DATA)"', Path(f"{task}.toml").read_text())
    assert len(keys) == 2
    done = h1r(task, f"{task}.toml")
    assert done.returncode == 2
    assert re.match(
        rf'h1r: {task}\.toml: `[\w.]+` is still "(CHECKPOINT|DATA)"; put your own in, there or by --set ', done.stderr
    )
    assert done.stderr.count("\n") == 1
    Path("CHECKPOINT").mkdir()
    Path("DATA").touch()
    assert h1r(task, f"{task}.toml", "--dry-run").returncode == 0, "somebody's own, by these names"


@pytest.mark.parametrize("task", ["sft", "examples"])
def test_init_says_where_it_cannot_write(h1r: Command, task: str) -> None:
    Path("file").write_text("")
    done = h1r("init", task, "file/new")
    assert done.returncode == 2
    assert re.search(r"^h1r: cannot write file/new: .*; name another place\n$", done.stderr)
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_what_init_writes_runs(h1r: Command, model: Path) -> None:
    write("own.jsonl", [{"question": row["problem"], "answer": row["solution"]} for row in ROWS])
    for task, more in (("sft", ()), ("eval", ("--set", "eval.max_tokens=4", "--no-scaling"))):
        h1r("init", task, "--model", model, "--data", "own.jsonl")
        done = h1r(task, f"{task}.toml", *more)
        assert done.returncode == 0, done.stderr


def test_a_recipe_extends_a_built_in_one_and_replaces_its_tables(h1r: Command) -> None:
    Path("mine.toml").write_text('extends = "tiny"\nname = "mine"\n[scaling]\nbudgets = [16]\n')
    assert load_recipe("mine.toml").scaling.keep_top == 0.9
    Path("mine.toml").write_text('extends = "tiny"\nreplaces = ["scaling"]\nname = "mine"\n[scaling]\nbudgets = [16]\n')
    found = load_recipe("mine.toml")
    assert (found.scaling.keep_top, found.scaling.budgets, found.problems.train) == (0.1, [16], 45000)
    for text, why in (
        ('extends = "tyni"', "extends no recipe tyni: neither a file nor one of the built-in ones"),
        ('extends = "tiny"\nreplaces = ["scalign"]', "`replaces` names `scalign`, which the extended recipe does not"),
        ('replaces = ["scaling"]', "`replaces` is for a recipe that `extends` another"),
    ):
        Path("wrong.toml").write_text(f"name = 'wrong'\n{text}\n")
        assert why in h1r("sft", "wrong.toml").stderr
