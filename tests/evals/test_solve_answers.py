import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from h1r.common.files import read_json
from h1r.config import EngineSection, JudgeSection, Recipe
from h1r.data.tokenizer import train_tokenizer, with_chat_format
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.evals.answers import generate, recipe_of
from h1r.evals.questions import questions_of
from h1r.evals.solving import solve
from h1r.evals.stages import evaluate_stage, scaling_stage
from h1r.models import build, save
from h1r.models.falcon_h1.config import preset
from h1r.records import Problem, write_jsonl
from h1r.report import collect
from h1r.run.directory import Run
from h1r.verify import use_judge

RECIPE = Recipe.model_validate(
    {
        "name": "answers",
        "chat": {"system_prompt": ""},
        "eval": {"samples": 2, "max_tokens": 12, "temperature": 1.0, "top_p": 1.0},
        "scaling": {
            "problems": 2, "budgets": [4], "warmup": 2, "window": 4, "max_tokens": 12, "temperature": 1.0, "top_p": 1.0,
        },
    }
)  # fmt: skip
PROBLEMS = [Problem(id=f"p{k}", question=f"What is {k} + {k}?", answer=str(2 * k), family="sums") for k in range(1, 4)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose SFT model has random weights."""
    run = Run.open(tmp_path_factory.mktemp("answers"), RECIPE)
    tokenizer = with_chat_format(train_tokenizer([problem.question for problem in PROBLEMS], 300), RECIPE.chat)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    save(build(preset("tiny", **small, **ends), seed=1), run.stage("sft") / "model", tokenizer)
    tokenizer.save_pretrained(run.stage("curate") / "tokenizer")
    write_jsonl(run.path / "curate" / "held_out.jsonl", PROBLEMS)
    return run


def test_traces_come_in_order_and_the_seed_decides_them(run: Run) -> None:
    params = SamplingParams(n=2, temperature=1.0, max_tokens=8, seed=5)
    checkpoint = str(run.path / "sft" / "model")
    traces = generate(checkpoint, ["1 + 1?", "2 + 2?"], params)
    assert [(trace.prompt_index, trace.sample_index) for trace in traces] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert traces == generate(checkpoint, ["1 + 1?", "2 + 2?"], params)


def test_a_run_directory_stands_for_its_last_trained_model(run: Run) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8)
    assert generate(str(run.path), ["1 + 1?"], params) == generate(str(run.path / "sft" / "model"), ["1 + 1?"], params)
    assert (run.models(), run.last_trained()) == (["sft"], "sft")


def test_a_run_without_a_trained_model_says_what_to_run(tmp_path: Path) -> None:
    Run.open(tmp_path, RECIPE)
    with pytest.raises(UserError, match=r"holds no trained model; run `h1r sft .*` first"):
        generate(str(tmp_path), ["1 + 1?"], SamplingParams(max_tokens=1))


def test_a_checkpoint_in_a_run_has_that_run_s_recipe_and_another_the_defaults(run: Run, tmp_path: Path) -> None:
    assert recipe_of(str(run.path / "sft" / "model"), {"scaling.warmup": 3}).scaling.warmup == 3
    assert recipe_of(str(run.path / "sft" / "model")).name == "answers"
    assert recipe_of(str(tmp_path)).scaling == Recipe(name="x").scaling
    with pytest.raises(UserError, match=r"--set scaling\.warmpu: unknown key `scaling\.warmpu`"):
        recipe_of(str(tmp_path), {"scaling.warmpu": 3})


def test_a_question_that_does_not_fit_is_named(run: Run) -> None:
    with pytest.raises(UserError, match=r"the engine generated nothing: .*asked '1 1 1"):
        generate(str(run.path), ["1 " * 5000], SamplingParams(max_tokens=1))


def test_solving_a_file_answers_and_grades_every_problem(run: Run) -> None:
    solved = solve(str(run.path), str(run.path / "curate" / "held_out.jsonl"), RECIPE)
    assert [one.problem_id for one in solved] == ["p1", "p2", "p3"]
    for one in solved:
        assert one.correct in (True, False)
        assert one.traces == one.budget == 4
        assert 0 < one.tokens <= 4 * 12
        assert f"{one.tokens:,} in 4 of 4 traces" in one.lines()


def test_solving_without_a_budget_is_refused(run: Run) -> None:
    scaling = RECIPE.scaling.model_copy(update={"budgets": []})
    with pytest.raises(UserError, match=r"scaling\.budgets is empty"):
        solve(str(run.path), "What is 3 + 4?", RECIPE.model_copy(update={"scaling": scaling}))


def test_solving_a_question_has_no_verdict(run: Run) -> None:
    (one,) = solve(str(run.path), "What is 3 + 4?", RECIPE)
    assert one.correct is None
    assert one.question == "What is 3 + 4?"


def test_solving_a_file_with_a_malformed_line_names_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"question": "1?"}\n{"id": 1}\n')
    with pytest.raises(UserError, match=r"x\.jsonl, row 2: no column `question`"):
        solve(str(run.path), str(tmp_path / "x.jsonl"), RECIPE)


def test_evaluation_and_scaling_leave_what_the_report_reads(run: Run) -> None:
    for which in ("base", *run.models()):
        summary = evaluate_stage(RECIPE, run, which)
        assert (summary["problems"], summary["samples_per_problem"]) == (3, 2)
        assert "outcomes" not in summary
    assert scaling_stage(RECIPE, run)["model"] == "sft"
    found = collect(run.path)
    assert set(found.evals) == {"base", "sft"}
    assert len(read_json(run.path / "eval" / "sft.json")["outcomes"]) == 3
    assert found.scaling is not None
    assert found.scaling.budget == 4
    assert set(found.stages) >= {"eval_base", "eval_sft", "scaling"}


def test_evaluation_before_curation_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run `h1r curate .*` first"):
        evaluate_stage(RECIPE, Run.open(tmp_path, RECIPE), "base")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-vllm")
def test_vllm_gives_the_answers_of_the_native_engine(run: Run) -> None:
    params = SamplingParams(n=2, temperature=1.0, max_tokens=8, seed=5)
    native = generate(str(run.path), ["1 + 1?", "2 + 2?"], params)
    vllm = {"engine.kind": "vllm", "engine.max_model_len": 64}
    traces = generate(str(run.path), ["1 + 1?", "2 + 2?"], params, vllm)
    assert [(t.token_ids, t.text, t.finish_reason) for t in traces] == [
        (t.token_ids, t.text, t.finish_reason) for t in native
    ]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-vllm")
@pytest.mark.slow
def test_stages_evaluate_and_scale_with_vllm(run: Run) -> None:
    recipe = RECIPE.model_copy(update={"engine": EngineSection(kind="vllm", max_model_len=64, max_sequences=8)})
    results = [[evaluate_stage(one, run, "sft"), scaling_stage(one, run)] for one in (RECIPE, recipe)]
    assert _without_time(results[0]) == _without_time(results[1])


def _without_time(value: Any) -> Any:
    """A result's numbers, rounded, without those of the clock and the name of the file of its answers, which another
    engine's differs from."""
    if isinstance(value, dict):
        kept = [key for key in value if "second" not in key and "_per_s" not in key and key != "samples"]
        return {key: _without_time(value[key]) for key in kept}
    if isinstance(value, list):
        return [_without_time(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def test_answers_use_the_kernels_and_threads_of_the_recipe(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        given = {"model.kernels": "torch", "threads": before + 1}
        generate(str(run.path), ["1 + 1?"], SamplingParams(max_tokens=1), given)
        assert torch.get_num_threads() == before + 1
        assert "kernels: torch (asked for)" in capsys.readouterr().err
        solve(str(run.path), "1 + 1?", recipe_of(str(run.path), given | {"threads": before + 2}))
        assert torch.get_num_threads() == before + 2
        assert "kernels: torch (asked for)" in capsys.readouterr().err
    finally:
        torch.set_num_threads(before)


def test_solve_keeps_the_judge_of_the_recipe(run: Run) -> None:
    judge = {"judge.urls": ["http://127.0.0.1:9/v1"], "judge.model": "none", "verify.judge_on": "unread"}
    try:
        (solved,) = solve(str(run.path), "1 + 1?", recipe_of(str(run.path), judge))
    finally:
        use_judge(JudgeSection())
    assert solved.correct is None


@pytest.mark.parametrize("name", ["rows.tsv", "notes.txt", "a/b.gz"])
@pytest.mark.parametrize("there", [True, False])
def test_the_name_of_a_file_that_is_not_read_is_no_question(tmp_path, name, there):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if there:
        path.write_text("[]")
    with pytest.raises(UserError, match=r"files that end with \.jsonl, .*; convert it, or ask the question in words"):
        questions_of(str(path))


@pytest.mark.parametrize(
    "name", ["none.jsonl", "none.jsonl.gz", "none.jsonl.zst", "none.json", "none.csv", "none.parquet"]
)
def test_a_file_of_problems_that_is_missing_is_said(tmp_path, name):
    with pytest.raises(UserError, match="cannot read"):
        questions_of(str(tmp_path / name))


@pytest.mark.parametrize(
    "question", ["What is in data.json?", "Explain x.txt", "Is 1.5 > 1.25", "e.g.", "3+4", "\0" * 9]
)
def test_a_question_is_a_question(question):
    assert [one.question for one in questions_of(question)] == [question]
