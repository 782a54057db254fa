import errno
import io
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from h1r import __version__, pipeline
from h1r.cli import main
from h1r.cli.common import print_json
from h1r.common.files import locked, read_json, write_json
from h1r.config import Recipe, load_recipe
from h1r.records import Problem
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run

STAGES = ["curate", "eval_base", "sft", "eval_sft", "pool", "rl", "eval_rl", "scaling"]


@pytest.fixture
def h1r(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Runs the command line in an empty directory: `code`, `out`, `err`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> SimpleNamespace:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
        found = capsys.readouterr()
        return SimpleNamespace(code=code, out=found.out, err=found.err)

    return run


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Replaces every stage by one that only notes that it was called, and with which `resume`."""
    calls: list[tuple[str, bool]] = []

    def noted(name: str) -> Callable[[Recipe, Run, bool], dict[str, str]]:
        def stage(recipe: Recipe, run: Run, resume: bool) -> dict[str, str]:
            calls.append((name, resume))
            return {"stage": name}

        return stage

    monkeypatch.setattr(pipeline, "STAGES", {name: noted(name) for name in pipeline.STAGES})
    return calls


def recipe_file(text: str = "", name: str = "small") -> str:
    Path(f"{name}.toml").write_text(f"name = '{name}'\n{text}")
    return f"{name}.toml"


def told(err: str) -> list[str]:
    """The lines of standard error, but for what is said where loading takes long."""
    return [line for line in err.splitlines() if not line.startswith("loading torch")]


@pytest.mark.parametrize("command", ["curate", "sft", "rl", "eval", "demo"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[rl]\nstpes = 3", "small.toml: unknown key `rl.stpes`; did you mean `rl.steps`?"),
        ("[rl", "small.toml: not valid TOML"),
        ("[eval]\ntop_p = 2", "small.toml: `eval.top_p` = 2 is refused"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_sentence_and_code_2(
    h1r: Callable[..., SimpleNamespace], command: str, text: str, sentence: str
) -> None:
    found = h1r(command, recipe_file(text))
    assert found.code == 2
    assert sentence in found.err
    assert len(told(found.err)) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sft", "none.toml"], "cannot read recipe none.toml: No such file or directory; check the path"),
        (["sft", "none"], "no recipe none: neither a file nor one of the built-in ones"),
        (["sft", "."], "cannot read recipe recipe.json"),
        (["sft", "small.toml", "--set", "rl.steps"], "`rl.steps` sets nothing; write key=value"),
        (["sft", "small.toml", "--set", "rl.steps=0"], "`rl.steps` = 0 is refused"),
        (["sft", "small.toml", "--set", "rl.setps=1"], "unknown key `rl.setps`; did you mean `rl.steps`?"),
        (["sft", "small.toml", "--set", "rl.rewards.brief=1"], "unknown reward `brief`; use one of"),
        (["sft", "small.toml", "--set", "plugins=['none.py']"], "none.py` cannot be imported (FileNotFoundError"),
        (["report", "nowhere"], "nowhere is not a run directory"),
        (
            ["sft", "small.toml", "--out", "small.toml/x"],
            "cannot make small.toml/x: Not a directory; give another --out",
        ),
        (["parity", "tiny", "--device", "toaster"], "--device toaster is no device"),
        (["parity", "tiny", "--device", "cuda:99"], "--device cuda:99 cannot be used"),
        (["report", "one", "./one"], "one is named twice"),
        (["report", "one", "--out", "/no/such/place/page.html"], "there is no directory /no/such; make it first"),
        (["report", "one", "two", "--plot", "main.png"], "--plot shows one run, but 2 were named"),
        (["generate", "./nowhere", "-p", "1+1"], "no checkpoint directory ./nowhere"),
        (["solve", "./nowhere", "1+1"], "no checkpoint directory ./nowhere"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_code_2(
    h1r: Callable[..., SimpleNamespace], arguments: list[str], sentence: str
) -> None:
    recipe_file()
    found = h1r(*arguments)
    assert found.code == 2
    assert sentence in found.err
    assert len(told(found.err)) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["sft"], ["sft", "x.toml", "--rseume"], ["fly"], ["generate", "x", "-p", "1", "-n", "0"]]
)
def test_wrong_usage_is_code_2_without_a_traceback(h1r: Callable[..., SimpleNamespace], arguments: list[str]) -> None:
    found = h1r(*arguments)
    assert found.code == 2
    assert "Usage: h1r" in found.err + found.out
    assert "Traceback" not in found.err


@pytest.mark.parametrize("command", ["generate", "solve"])
def test_a_checkpoint_of_another_architecture_is_refused_by_name(
    h1r: Callable[..., SimpleNamespace], command: str
) -> None:
    write_json("other/config.json", {"model_type": "llama"})
    found = h1r(command, "other", *(["-p", "1+1"] if command == "generate" else ["1+1"]))
    assert found.code == 2
    known = r"`falcon_h1`, (`own_\w+`, )*`qwen3`"  # with those that a page's example has registered in this process
    assert re.search(rf"model_type: unknown model family `llama`; use one of {known}\n", found.err)
    assert found.err.startswith("loading other\n")
    assert found.err.count("\n") == 2


def test_a_defect_of_ours_keeps_its_traceback(
    h1r: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h1r.config.load_recipe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        h1r("sft", recipe_file())


@pytest.mark.parametrize("file", ["runs/small/x", "runs/small/.x.partial", f"runs/small/.x.{'0a' * 16}.partial"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_or_a_forbidden_directory_is_one_sentence(
    h1r: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch, number: int, file: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number), file)

    monkeypatch.setattr("h1r.pipeline.run_stage", fails)
    found = h1r("sft", recipe_file())
    assert found.code == 2
    assert found.err == f"h1r: runs/small/x: {os.strerror(number)}; make room or give other paths, then run it again\n"


def test_a_report_that_cannot_be_written_is_one_sentence(h1r: Callable[..., SimpleNamespace]) -> None:
    Run.open("run", Recipe(name="a"))
    found = h1r("report", "run", "--out", "run/recipe.json/page.html")
    assert found.code == 2
    assert "cannot write run/recipe.json/page.html: File exists; give another path" in found.err


def test_a_stage_that_another_process_runs_is_refused(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    run = Run.open("runs/small", load_recipe(recipe_file()))
    with locked(run.path / ".sft.lock", ""):
        found = h1r("sft", "small.toml")
        assert found.code == 2
        assert "another process runs sft in runs/small; wait for it, or give another --out" in found.err
        assert h1r("curate", "small.toml", "--json").code == 0
    assert h1r("sft", "small.toml").code == 0
    assert stages == [("curate", False), ("sft", False)]


def test_dry_run_prints_the_resolved_recipe_and_writes_nothing(h1r: Callable[..., SimpleNamespace]) -> None:
    found = h1r("rl", recipe_file("[rl]\nsteps = 7"), "--set", "rl.num_generations=4", "--seed", "3", "--dry-run")
    assert found.code == 0
    Path("again.toml").write_text(found.out)
    again = load_recipe("again.toml")
    assert (again.rl.steps, again.rl.num_generations, again.seed) == (7, 4, 3)
    as_json = h1r("rl", "small.toml", "--set", "rl.num_generations=4", "--seed", "3", "--dry-run", "--json")
    assert Recipe.model_validate_json(as_json.out) == again
    assert not Path("runs").exists()


def test_a_stage_writes_into_the_run_of_its_recipe_unless_out_says_otherwise(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    h1r("sft", recipe_file())
    h1r("sft", "small.toml", "--out", "elsewhere")
    assert read_json("runs/small/done/sft.json") == read_json("elsewhere/done/sft.json") == {"stage": "sft"}


def test_json_output_is_one_document_and_no_progress(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    found = h1r("sft", recipe_file(), "--json")
    assert json.loads(found.out) == {"stage": "sft"}
    assert found.err == ""


def test_resume_takes_a_recipe_or_a_run_directory(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    recipe_file("seed = 5")
    Run.open("runs/small", load_recipe("small.toml"))
    assert h1r("sft", "--resume", "runs/small").code == 0
    Path("runs/small/done/sft.json").unlink()
    assert h1r("sft", "small.toml", "--resume").code == 0
    assert stages == [("sft", True), ("sft", True)]
    assert read_json("runs/small/recipe.json")["seed"] == 5


def test_training_that_has_begun_is_not_started_over_by_accident(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    Checkpoints(Path("runs/small/sft")).save(12, lambda directory: write_json(directory / "state.json", 12))
    found = h1r("sft", recipe_file())
    assert found.code == 2
    assert "runs/small/sft stopped at step 12; add --resume to go on, give another --out, or delete" in found.err
    assert h1r("sft", "small.toml", "--resume").code == 0
    assert "is finished" in h1r("sft", "small.toml").err
    assert h1r("sft", "small.toml", "--resume").code == 0
    assert stages == [("sft", True)]


def test_another_recipe_in_the_same_run_is_refused(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    h1r("sft", recipe_file())
    found = h1r("sft", "small.toml", "--seed", "1", "--resume")
    assert found.code == 2
    assert "they differ in seed" in found.err


def test_rl_selects_its_problems_first_when_that_was_not_done(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    h1r("rl", recipe_file())
    assert stages == [("pool", False), ("rl", False)]


def test_curate_selects_sft_or_rl_problems(h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]) -> None:
    h1r("curate", recipe_file(), "--json")
    h1r("curate", "small.toml", "--pool", "rl", "--json")
    assert stages == [("curate", False), ("pool", False)]


def test_eval_takes_the_models_that_are_named(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    found = h1r("eval", recipe_file(), "--model", "base", "--model", "rl", "--no-scaling", "--json")
    assert list(json.loads(found.out)) == ["eval_base", "eval_rl"]
    Path("runs/small/sft/model").mkdir(parents=True)
    Path("runs/small/curate/tokenizer").mkdir(parents=True)
    h1r("eval", "small.toml", "--json")
    assert [stage for stage, _ in stages] == ["eval_base", "eval_rl", "eval_base", "eval_sft", "scaling"]


def test_demo_runs_all_stages_in_order_and_skips_the_finished_ones(
    h1r: Callable[..., SimpleNamespace], stages: list[tuple[str, bool]]
) -> None:
    write_json("runs/small/done/curate.json", {"stage": "curate"})
    found = h1r("demo", recipe_file(), "--json")
    assert found.code == 0
    assert [stage for stage, _ in stages] == STAGES[1:]
    assert set(json.loads(found.out)) >= {"pass_at_1", "scaling", "wall_seconds", "peak_rss_bytes", "seed"}
    assert "<html" in Path("runs/small/report.html").read_text()
    assert found.err == ""
    stages.clear()
    again = h1r("demo", "small.toml")
    assert "scaling: already done" in again.err
    assert stages == []


def test_ctrl_c_is_one_sentence_that_says_how_to_go_on(
    h1r: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(recipe: Recipe, run: Run, resume: bool) -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(STAGES, interrupted))
    found = h1r("sft", recipe_file())
    assert found.code == 130
    assert found.err == "\nh1r: stopped; `h1r sft --resume runs/small` goes on\n"
    assert h1r("demo", "small.toml").code == 130
    assert not Path("runs/small/done").exists()


def test_help_answers_at_once_and_reads_no_recipe_and_no_package_of_weight() -> None:
    heavy = ("torch", "numpy", "pydantic", "rich", "pyarrow", "h1r.config", "h1r.verify", "h1r.records")
    code = (
        "import sys\nfrom h1r.cli import main\ntry:\n    main(['--help'])\n"
        f"finally:\n    assert not set({heavy}) & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: a test machine is seldom idle.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.9
    assert all(
        command in done.stdout for command in ("demo", "curate", "sft", "rl", "generate", "solve", "eval", "report")
    )


def test_version_and_short_help(h1r: Callable[..., SimpleNamespace]) -> None:
    assert h1r("--version").out == f"h1r {__version__}\n"
    assert h1r("-h").out == h1r("--help").out
    assert h1r("solve", "-h").out == h1r("solve", "--help").out


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "~/no such model", "here/model"])
@pytest.mark.parametrize("command", [("generate", "-p", "hi"), ("solve", "hi")])
def test_a_directory_that_is_not_there_is_told_before_anything_is_loaded(
    h1r: Callable[..., SimpleNamespace], command: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("here").mkdir()
    for module in ("h1r.evals.answers", "h1r.engine.protocol"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it would raise
    found = h1r(command[0], name, *command[1:])
    assert (found.code, found.err) == (
        2,
        f"h1r: no checkpoint directory {name}; check the path, or give a hub id as owner/name\n",
    )


@pytest.mark.parametrize(("text", "why"), [(" ", "is empty; ask one"), ("2\udcff", "is not UTF-8; give it as text")])
def test_a_question_that_is_no_text_is_refused(h1r: Callable[..., SimpleNamespace], text: str, why: str) -> None:
    Path("model").mkdir()
    for command in (["generate", "model", "-p", text], ["solve", "model", text]):
        assert h1r(*command).err.endswith(f"h1r: the question {why}\n")


def test_a_prompt_can_come_from_standard_input(
    h1r: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def generate(checkpoint: str, prompts: list[str], *rest: object) -> list[object]:
        asked.extend(prompts)
        return []

    Path("model").mkdir()
    monkeypatch.setattr("h1r.evals.answers.generate", generate)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is\n1 + 1?\n"))
    found = h1r("generate", "model", "-p", "-", "-p", "hi")
    assert (found.code, asked) == (0, ["What is\n1 + 1?", "hi"])
    assert found.err.startswith("loading model\n")


def test_solve_takes_a_question_from_standard_input_and_a_file_of_any_name(
    h1r: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def solve(checkpoint: str, problems: list[Problem], *rest: object, **named: object) -> list[object]:
        asked.extend(one.question for one in problems)
        return []

    monkeypatch.setattr("h1r.evals.solving.solve", solve)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 1 + 1?\n"))
    assert h1r("solve", "-").code == 0
    strange = os.fsdecode(b"a \xe9.jsonl")  # not UTF-8
    Path(strange).write_text('{"question": "What is 2 + 2?"}')
    assert h1r("solve", strange).code == 0
    assert asked == ["What is 1 + 1?", "What is 2 + 2?"]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert h1r("solve", "-").err == "h1r: the question is empty; ask one\n"


def test_a_run_of_the_packages_own_model_has_its_name(h1r: Callable[..., SimpleNamespace]) -> None:
    Path("own.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    found = h1r("eval", "h1r:small", "--benchmark", "own.jsonl", "--dry-run")
    assert 'name = "h1r-small"' in found.out


def test_commands_that_are_told_can_be_pasted(h1r: Callable[..., SimpleNamespace]) -> None:
    assert "run `h1r sft 'my own.toml'`" in h1r("init", "sft", "my own.toml").err
    write_json(Path("a run/recipe.json"), {"name": "a"})
    assert "run `h1r sft 'a run'` first" in h1r("export", "a run", "--to", "hf").err


def test_what_a_locale_cannot_write_is_escaped(
    h1r: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`h1r watch` on a terminal of Latin-1 ended in a traceback at its check mark."""
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="latin-1", write_through=True))
    assert h1r("init", "sft", "ü✓.toml").code == 0
    assert written.getvalue() == b"wrote \xfc\\u2713.toml\n"


def test_a_file_without_problems_is_refused(h1r: Callable[..., SimpleNamespace]) -> None:
    Path("model").mkdir()
    Path("none.jsonl").write_text("")
    found = h1r("solve", "model", "none.jsonl")
    assert found.code == 2
    assert "none.jsonl holds no problem" in found.err
    found = h1r("verify", "a.parquet")
    assert (found.code, found.err) == (
        2,
        "h1r: a.parquet is Parquet, and answers to grade are read from JSON Lines; convert it\n",
    )


def test_json_for_programs_says_null_where_there_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"reward": float("nan"), "logprobs": (-0.5, float("-inf"))}, 1])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [
        {"reward": None, "logprobs": [-0.5, None]},
        1,
    ]
