"""The RL pool: scripted rollouts in, the paper's pass-rate rules and the account of them out."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tiny_training import run_from, training_recipe

from h1r.common.files import read_json
from h1r.config import Recipe, load_recipe
from h1r.data.chat import prompt_ids
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.models import save
from h1r.records import Problem, Trace, Verdict, read_jsonl, write_jsonl
from h1r.report import write_report
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import Run
from h1r.train.pool import build_pool
from h1r.train.start import starting_model

RIGHT, WRONG = "right", "wrong"
VERIFIER = "exact"
SCRIPTS: dict[str, tuple[list[str], str]] = {
    "always": ([RIGHT] * 8, "stop"),
    "mostly": ([RIGHT] * 7 + [WRONG], "stop"),
    "once": ([RIGHT, *(f"wrong {i}" for i in range(7))], "stop"),
    "agreed": ([WRONG] * 4 + ["a", "b", "c", "d"], "stop"),
    "scattered": ([WRONG] * 3 + ["a", "b", "c", "d", "e"], "stop"),
    "too_long": ([""] * 8, "length"),
}
"""Per problem: the boxed answers of its eight rollouts ("" for none), and why each ended."""


class ScriptedEngine:
    """Plays `SCRIPTS` back, in a scrambled order as an engine does that ends traces when they end."""

    seen: ClassVar[set[SamplingParams]]
    asked: ClassVar[int]
    dies_at: ClassVar[int | None] = None
    before_the_last: ClassVar[Callable[[], object]] = staticmethod(lambda: None)

    def __init__(self, model: object, tokenizer: Any, section: object) -> None:
        self.tokenizer = tokenizer

    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> Iterator[Trace]:
        if isinstance(params, SamplingParams):
            params = [params] * len(prompts)
        ScriptedEngine.seen = set(params)
        scripts = {tuple(prompt_ids(self.tokenizer, f"Say {name}.", "")): script for name, script in SCRIPTS.items()}
        traces = []
        for index, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
            answers, reason = scripts[tuple(prompt)]
            for sample, answer in enumerate(answers[one.seed : one.seed + one.n]):
                text = f"<think>\nhm\n</think>\n\n\\boxed{{{answer}}}" if answer else "<think>\nhm hm"
                traces.append(Trace(index, sample, [1], text, [0.0], [0.0], [0.0], reason))  # type: ignore[arg-type]
        random.Random(0).shuffle(traces)
        ScriptedEngine.asked = len(prompts)
        for count, trace in enumerate(traces):
            if count == ScriptedEngine.dies_at:
                raise KeyboardInterrupt
            if count == len(traces) - 1:
                ScriptedEngine.before_the_last()
            yield trace


def build(
    curated: Path, path: Path, monkeypatch: pytest.MonkeyPatch, max_tests: int = 0, **rl_pool: Any
) -> tuple[dict[str, Any], Run]:
    recipe: Recipe = training_recipe(
        rl_pool=rl_pool, rl={"max_tokens": 33, "max_tests": max_tests}, rollout={"max_failed_share": 0.2}
    )
    run = run_from(curated, path, recipe)
    save(starting_model(recipe, run), run.stage("sft") / "model")
    tests = {"tests": ["assert say() == 'right'"]} if VERIFIER == "code" else {}
    problems = [Problem(name, f"Say {name}.", RIGHT, verifier=VERIFIER, metadata={**tests}) for name in SCRIPTS]
    write_jsonl(run.path / "curate" / "problems_rl.jsonl", problems)
    monkeypatch.setattr("h1r.engine.native.open.NativeEngine", ScriptedEngine)
    return build_pool(recipe, run), run


def kept(run: Run) -> list[str]:
    return [problem.id for problem in read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)]


def test_the_pool_holds_what_is_sometimes_solved(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, run = build(curated, tmp_path / "run", monkeypatch, keep_unsolved_share=0, keep_overlong_share=0)
    assert kept(run) == ["mostly", "once"]
    assert summary["table"] == [
        {"step": "negative controls", "unit": "problem", "in": 6, "out": 6, "reasons": {}},
        {
            "step": "pass rate",
            "unit": "problem",
            "in": 6,
            "out": 2,
            "reasons": {
                "always solved": 1,
                "never solved, answers agree: likely a wrong label": 1,
                "never solved, answers scatter": 1,
                "never solved, all too long": 1,
            },
        },
    ]
    lines = (run.path / "rl_pool" / "dropped.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert read_json(run.path / "rl_pool" / "summary.json") == summary


def test_the_histogram_counts_problems_by_solved_rollouts(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, run = build(curated, tmp_path / "run", monkeypatch)
    assert summary["pass_rate_histogram"] == [3, 1, 0, 0, 0, 0, 0, 1, 1]
    rates = {p.id: p.difficulty["pass_rate"] for p in read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)}
    assert rates["mostly"] == 7 / 8
    assert rates["once"] == 1 / 8


def test_the_random_shares_at_one_keep_the_unsolved_but_not_the_doubtful(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = build(curated, tmp_path / "run", monkeypatch, keep_unsolved_share=1, keep_overlong_share=1)
    assert kept(run) == ["mostly", "once", "scattered", "too_long"]


def test_the_majority_limit_is_the_recipes(curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"keep_unsolved_share": 1, "keep_overlong_share": 0}
    _, strict = build(curated, tmp_path / "strict", monkeypatch, max_majority=3, **shares)
    assert kept(strict) == ["mostly", "once"]
    _, lax = build(curated, tmp_path / "lax", monkeypatch, max_majority=5, **shares)
    assert kept(lax) == ["mostly", "once", "agreed", "scattered"]


def test_the_pool_is_sampled_as_the_recipe_says(curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(curated, tmp_path / "run", monkeypatch, temperature=0.6, top_p=0.95)
    assert ScriptedEngine.seen == {SamplingParams(n=8, temperature=0.6, top_p=0.95, max_tokens=33, seed=0)}
    build(curated, tmp_path / "shorter", monkeypatch, max_tokens=20)
    assert {one.max_tokens for one in ScriptedEngine.seen} == {20}


def test_rollouts_run_at_most_so_many_tests_and_the_pool_keeps_them_all(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Problem] = []

    class Code:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Code:
            return self

        def __exit__(self, *_: object) -> None: ...

        def verify_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
            asked.extend(problems)
            return [Verdict(float("right" in text), extracted=text) for text in texts]

    monkeypatch.setattr("h1r.train.pool.open_backend", Code)
    monkeypatch.setattr("test_pool.VERIFIER", "code")
    _, run = build(curated, tmp_path / "run", monkeypatch, max_tests=4)
    assert {problem.metadata["max_tests"] for problem in asked} == {4}
    pool = list(read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem))
    assert pool
    assert all("max_tests" not in problem.metadata for problem in pool)


@pytest.mark.slow
def test_a_real_model_gives_the_same_pool_twice(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(
        rl_pool={"rollouts": 2, "keep_unsolved_share": 0.5, "keep_overlong_share": 0.5}, rl={"max_tokens": 8}
    )
    found = []
    for name in ("one", "two"):
        run = run_from(curated, tmp_path / name, recipe)
        save(starting_model(recipe, run), run.stage("sft") / "model")
        summary = build_pool(recipe, run)
        assert summary["pass_rate_histogram"] == [6, 0, 0]
        found.append((summary, kept(run), (run.path / "rl_pool" / "dropped.jsonl").read_text()))
    assert found[0] == found[1]
    assert len(found[0][1]) + len(found[0][2].splitlines()) == 6


def test_a_pool_whose_rollouts_all_fail_ends_with_the_reason(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_pool.SCRIPTS", {name: ([""] * 8, "error") for name in SCRIPTS})
    with pytest.raises(UserError, match="the engine generated nothing: None"):
        build(curated, tmp_path / "run", monkeypatch)


def test_a_problem_that_the_engine_cannot_answer_is_dropped_for_that(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_pool.SCRIPTS", {**SCRIPTS, "scattered": ([""] * 8, "error")})
    summary, run = build(curated, tmp_path / "run", monkeypatch, keep_unsolved_share=1)
    assert "scattered" not in kept(run)
    assert summary["table"][1]["reasons"]["the engine could not answer"] == 1


def test_problems_that_pay_a_stub_are_refused_before_anything_is_generated(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = training_recipe()
    run = run_from(curated, tmp_path / "run", recipe)
    save(starting_model(recipe, run), run.stage("sft") / "model")
    anything = Problem("anything", "How many?", "1234", metadata={"tolerance": 0.9999})
    write_jsonl(run.path / "curate" / "problems_rl.jsonl", [anything])
    with pytest.raises(UserError, match=r"no RL problem is left \(a control earns: "):
        build_pool(recipe, run)


@pytest.mark.parametrize("only", [False, True])
def test_what_no_rule_can_grade_is_counted_and_left_out_where_asked(curated: Path, tmp_path: Path, only: bool) -> None:
    recipe = training_recipe(rl_pool={"rollouts": 0, "only_gradable": only}, controls={"enabled": False})
    run = run_from(curated, tmp_path / "run", recipe)
    save(starting_model(recipe, run), run.stage("sft") / "model")
    asked = {"fine": "How many?", "parts": "(a) How many? (b) And how old?", "figure": "How long is AB in the figure?"}
    write_jsonl(run.path / "curate" / "problems_rl.jsonl", [Problem(*one, "4") for one in asked.items()])
    summary = build_pool(recipe, run)
    reasons = {"several questions with one reference": 1, "a figure that is not there": 1}
    assert summary["ungradable"] == {"count": 2, "of": 3, "reasons": reasons}
    assert kept(run) == (["fine"] if only else ["fine", "parts", "figure"])
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "2 candidates of 3 (66.7%) cannot be graded by rules" in page
    assert ("They are left out." in page) == only
    row = {"step": "gradable by rules", "unit": "problem", "in": 3, "out": 1, "reasons": reasons}
    assert (row in summary["table"]) == only


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "rl_pool" / "rollouts.jsonl").read_text().splitlines()]


def test_a_pool_that_was_stopped_asks_for_what_is_missing_and_ends_as_an_unbroken_one(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, unbroken = build(curated, tmp_path / "unbroken", monkeypatch)
    assert ScriptedEngine.asked == len(SCRIPTS)
    monkeypatch.setattr(ScriptedEngine, "dies_at", 40)
    with pytest.raises(KeyboardInterrupt):
        build(curated, tmp_path / "stopped", monkeypatch)
    monkeypatch.setattr(ScriptedEngine, "dies_at", None)
    stopped = Run(tmp_path / "stopped")
    done = len(rows_of(stopped)) - 1
    assert 0 < done < len(SCRIPTS)
    recipe = load_recipe(stopped.path / "recipe.json")
    assert build_pool(recipe, stopped) == expected
    assert ScriptedEngine.asked == len(SCRIPTS) - done
    assert f"{done} of {len(SCRIPTS)} problems have their rollouts" in capsys.readouterr().err
    for name in ("pool.jsonl", "dropped.jsonl"):
        assert (stopped.path / "rl_pool" / name).read_bytes() == (unbroken.path / "rl_pool" / name).read_bytes()
    # Rollouts of other settings are none of these.
    other = recipe.model_copy(update={"rl_pool": recipe.rl_pool.model_copy(update={"temperature": 0.9})})
    build_pool(other, stopped)
    assert ScriptedEngine.asked == len(SCRIPTS)
    assert len(rows_of(stopped)) == 1 + len(SCRIPTS)


def test_rollouts_are_graded_while_others_are_generated(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some_are_graded() -> None:
        """The engine holds its last trace back until the verdicts of a problem are there."""
        until = time.monotonic() + 60
        while len(graded) == 0:
            assert time.monotonic() < until, "no verdict before the last trace"
            time.sleep(0.01)

    graded: list[int] = []
    real = RolloutPipeline.verdicts

    def verdicts(pipeline: RolloutPipeline, *arguments: Any) -> Any:
        found = real(pipeline, *arguments)
        graded.append(len(found))
        return found

    monkeypatch.setattr(RolloutPipeline, "verdicts", verdicts)
    monkeypatch.setattr(ScriptedEngine, "before_the_last", staticmethod(some_are_graded))
    build(curated, tmp_path / "run", monkeypatch)
    assert graded == [8] * len(SCRIPTS)
