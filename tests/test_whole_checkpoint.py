"""A checkpoint is whole: a copy of its directory is asked as the run asks it, by us and by transformers."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

import warm
from h1r.common.files import read_json
from h1r.config import Recipe, load_recipe
from h1r.errors import UserError
from h1r.run.directory import prompt_of
from h1r.train.checkpoint import keep_defaults
from h1r.train.parallel.world import ALONE
from hub_server import Hub, hub_server
from small_checkpoint import small_checkpoint

SYSTEM = "Answer in one word."
ASKED = ("eval.temperature=0.5", "eval.top_p=0.8", "eval.max_tokens=9", "scaling.budgets=[3]", "scaling.warmup=2",
         "scaling.max_tokens=9")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model was trained with a system prompt and sampling of its own."""
    place = tmp_path_factory.mktemp("whole")
    model = small_checkpoint(place / "start", system_prompt=None)
    (model / "h1r.json").write_text('{"prompt": "Q: {question}"}')
    (place / "own.jsonl").write_text('{"question": "What is 1 + 2?", "answer": "3"}\n')
    keys = [part for key in (*ASKED, "sft.epochs=1", f"chat.system_prompt='{SYSTEM}'") for part in ("--set", key)]
    done = warm.run("sft", place / "own.jsonl", "--model", model, "--out", place / "run", *keys)
    assert done.returncode == 0, done.stderr
    return place / "run"


@pytest.fixture(scope="module")
def copied(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(run / "sft/model", tmp_path_factory.mktemp("elsewhere") / "copy"))


def asked(*arguments: object) -> Any:
    done = warm.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_copy_answers_as_the_run_does(run: Path, copied: Path) -> None:
    first, second = (asked("generate", where, "-p", "What is 1 + 2?", "-n", "2") for where in (run, copied))
    assert first == second
    assert max(len(trace["token_ids"]) for trace in first) <= 9
    first, second = (asked("solve", where, "What is 1 + 2?") for where in (run, copied))
    assert first == second
    assert first[0]["budget"] == 3


def test_transformers_reads_the_same_prompt_and_sampling_of_a_copy(copied: Path) -> None:
    prompt = AutoTokenizer.from_pretrained(copied).apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>")
    found = GenerationConfig.from_pretrained(copied)
    assert (found.do_sample, found.temperature, found.top_p, found.max_new_tokens) == (True, 0.5, 0.8, 9)
    assert read_json(copied / "h1r.json")["scaling"]["budgets"] == [3]


def test_options_go_before_what_is_stored(copied: Path) -> None:
    (trace,) = asked("generate", copied, "-p", "Hi", "--max-tokens", "4", "--temperature", "0")
    assert len(trace["token_ids"]) <= 4
    assert trace["logprobs"] == trace["sampling_logprobs"]


def test_an_evaluation_of_a_copy_samples_as_the_run_does(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": "What is 1 + 2?", "answer": "3"}\n')
    done = warm.run("eval", copied, "--benchmark", "own.jsonl", "--set", "eval.samples=1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    section = read_json(next((tmp_path / "runs").glob("*/recipe.json")))["eval"]
    assert (section["temperature"], section["top_p"], section["max_tokens"]) == (0.5, 0.8, 9)


@pytest.mark.parametrize(
    ("which", "options", "asked_in"),
    [
        ("copied", (), "Q: {question}"),
        ("run", (), "Q: {question}"),
        ("recipe", (), "Q: {question}"),
        ("init", (), "Q: {question}"),
        ("copied", ("--prompt", "{question}!"), "{question}!"),
    ],
)
def test_a_benchmark_is_asked_in_the_words_of_training(
    which: str, options: tuple[str, ...], asked_in: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Those of the checkpoint that training began from, which says them: of a copy, a run, and a recipe that names
    one. `h1r init` writes them into its recipe."""
    (tmp_path / "own.jsonl").write_text('{"question": "What is 1 + 2?", "answer": "3"}\n')
    if which == "init":
        copied = request.getfixturevalue("copied")
        warm.run("init", "eval", "--model", copied, "--data", "own.jsonl", cwd=tmp_path)
        assert load_recipe(tmp_path / "eval.toml").eval.benchmarks[0].prompt == asked_in
        return
    if which == "recipe":
        (tmp_path / "a.toml").write_text(f"name = 'a'\n[model]\ncheckpoint = '{request.getfixturevalue('copied')}'\n")
    model = "a.toml" if which == "recipe" else request.getfixturevalue(which)
    done = warm.run(
        "eval", model, "--benchmark", "own.jsonl", *options, "--out", "new", "--dry-run", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["eval"]["benchmarks"][0]["prompt"] == asked_in
    assert ("asked as in training: Q: {question}" in done.stderr) == (not options)


def test_a_model_from_random_weights_knows_its_questions_alone(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{}")
    keep_defaults(tmp_path, Recipe(name="own"), ALONE)
    assert prompt_of(str(tmp_path)) == prompt_of("h1r:small") == "{question}"


def test_what_a_checkpoint_says_of_itself_is_not_trusted(tmp_path: Path) -> None:
    for text, found in (('{"prompt": 5}', None), ('{"prompt": "no place"}', None), ("{}", None)):
        (tmp_path / "h1r.json").write_text(text)
        assert prompt_of(str(tmp_path)) is found
    for text in ("[1]", "null", "nul"):
        (tmp_path / "h1r.json").write_text(text)
        with pytest.raises(UserError, match=r"h1r\.json"):
            prompt_of(str(tmp_path))


def test_others_may_read_every_file_of_a_run_as_the_umask_says(run: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [str(path) for path in files if stat.S_IMODE(path.stat().st_mode) != 0o666 & ~umask] == []


def test_export_writes_a_directory_with_a_card(run: Path, tmp_path: Path) -> None:
    done = warm.run("export", run, "--to", "hf", cwd=tmp_path)
    assert done.stdout == "wrote run-hf\n", done.stderr
    names = {path.name for path in (tmp_path / "run-hf").iterdir()}
    assert names == {path.name for path in (run / "sft/model").iterdir()} | {"README.md"}
    assert "Made by Open-H1R: stage `sft` of the run `run`." in (tmp_path / "run-hf/README.md").read_text()
    assert "run-hf is there already" in warm.run("export", run, "--to", "hf", cwd=tmp_path).stderr
    first, second = (asked("generate", where, "-p", "Hi") for where in (run, tmp_path / "run-hf"))
    assert first == second


def test_gguf_is_written_by_the_converter_of_llama_cpp(run: Path, tmp_path: Path) -> None:
    found = {"PATH": "/nowhere", "LLAMA_CPP": ""}
    none = warm.run("export", run, "--to", "gguf", cwd=tmp_path, env=found)
    assert none.returncode == 2
    assert "llama.cpp's convert_hf_to_gguf.py, which is not on the path; the package gguf" in none.stderr
    script = tmp_path / "llama.cpp/convert_hf_to_gguf.py"
    script.parent.mkdir()
    script.write_text("import sys, pathlib\npathlib.Path(sys.argv[3]).write_text(' '.join(sys.argv[1:]))\n")
    done = warm.run(
        "export", run, "--to", "gguf", "--outtype", "q8_0", cwd=tmp_path, env={"LLAMA_CPP": str(script.parent)}
    )
    assert done.stdout == "wrote run.gguf\n", done.stderr
    said = (tmp_path / "run.gguf").read_text().split()
    assert (said[0], said[1], said[3:]) == (str(run / "sft/model"), "--outfile", ["--outtype", "q8_0"])
    script.write_text("raise SystemExit('Model Nothing is not supported')\n")
    fails = warm.run("export", run, "--to", "gguf", "--converter", script, "--out", "other.gguf", cwd=tmp_path)
    assert "did not convert" in fails.stderr
    assert "Model Nothing is not supported" in fails.stderr
    assert not (tmp_path / "other.gguf").exists()


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    with hub_server() as found:
        yield found


def test_push_uploads_what_the_directory_holds_in_one_commit(run: Path, hub: tuple[str, type[Hub]]) -> None:
    url, handler = hub
    there = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1"}
    listed = warm.run("push", run, "me/model", "--dry-run", env=there).stdout
    assert "model.safetensors" in listed
    assert handler.created == []
    done = warm.run("push", run, "me/model", "--private", env=there)
    assert done.stdout == f"pushed to {url}/me/model\n", done.stderr
    assert handler.created[0]["visibility"] == "private"
    model = run / "sft/model"
    assert {name: data for name, data in handler.files.items() if name != "README.md"} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }
    keyless = warm.run("push", run, "me/model", env={**there, "HF_TOKEN": "", "HF_HOME": str(run / "no")})
    assert "h1r: the hub wants a key to write; put a token of yours into HF_TOKEN" in keyless.stderr
    away = warm.run("push", run, "me/model", env={**there, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert away.stderr.startswith("h1r: me/model was not pushed: ")
    assert away.stderr.count("\n") == 1
    handler.refuses = True
    refused = warm.run("push", run, "me/model", env=there)
    assert "h1r: me/model was not pushed: " in refused.stderr
    assert refused.returncode == 2
    assert "is no run and no checkpoint directory here" in warm.run("push", "owner/name", "me/model", env=there).stderr
