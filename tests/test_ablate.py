"""Variants of a recipe: what each shares with the base, what the page says of them, and a small ablation end to end."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from h1r.ablate import run_trials, take_over, trials
from h1r.cli import main
from h1r.common.files import read_json, write_json
from h1r.config import Recipe, load_recipe
from h1r.errors import UserError
from h1r.report.ablation import Run as Reported
from h1r.report.ablation import rows_of
from h1r.report.collect import RunReport
from h1r.report.paired import ProblemOutcome
from h1r.report.stored import EvalResult
from h1r.run.changes import POOL_READS
from h1r.run.directory import Run

SOURCES = Path(__file__).resolve().parents[1] / "src" / "h1r"


def recipe(variants: dict[str, Any], **section: Any) -> Recipe:
    return Recipe.model_validate({"name": "ab", "ablation": {"variants": variants, **section}})


def test_keys_are_written_with_dots_or_as_tables(tmp_path: Path) -> None:
    planned = trials(
        recipe(
            {
                "few": {"rl": {"num_generations": 4, "optimizer": {"learning_rate": 1e-3}}},
                "terse": {"rl.num_generations": 4, "rl.optimizer": {"learning_rate": 1e-3}},
            },
            seeds=[3, 5],
        ),
        tmp_path,
    )
    assert [one.path.name for one in planned] == [
        "base-seed3", "few-seed3", "terse-seed3", "base-seed5", "few-seed5", "terse-seed5",
    ]  # fmt: skip
    base, few, terse = planned[:3]
    assert (few.recipe.rl.num_generations, few.recipe.rl.optimizer.learning_rate, few.recipe.seed) == (4, 1e-3, 3)
    assert few.recipe.rl.optimizer.weight_decay == base.recipe.rl.optimizer.weight_decay
    assert terse.recipe.rl.optimizer == type(base.recipe.rl.optimizer)(learning_rate=1e-3)
    assert few.recipe.ablation.variants == {}


@pytest.mark.parametrize(
    ("variants", "section", "why"),
    [
        ({}, {}, "has no variants"),
        ({"a": {"rl.num_generation": 4}}, {}, "variant a.*did you mean `rl.num_generations`"),
        ({"a": {"scaling.budgets": [64]}}, {}, "changes nothing before eval_rl"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    variants: dict[str, Any], section: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=why):
        trials(recipe(variants, **section), tmp_path)


@pytest.mark.parametrize(
    ("variants", "seeds"),
    [
        ({"base": {"rl.steps": 1}}, [0]),
        ({"../up": {"rl.steps": 1}}, [0]),
        ({"a": {}}, [0]),
        ({"a": {"seed": 1}}, [0]),
        ({"a": {"rl.steps": 1}}, [0, 0]),
        ({"a": {"rl.steps": 1}}, []),
    ],
)
def test_a_variant_has_a_name_and_a_change_and_no_seed_of_its_own(variants: dict[str, Any], seeds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"variant|seed"):
        recipe(variants, seeds=seeds)


@pytest.mark.parametrize(
    ("key", "value", "begins"),
    [
        ("rl.num_generations", 4, "rl"),
        ("rl.max_tokens", 64, "pool"),
        ("rl_pool.rollouts", 4, "pool"),
        ("sft.epochs", 1, "sft"),
        ("eval.samples", 2, "eval_base"),
        ("problems.train", 100, "curate"),
    ],
)
def test_a_variant_begins_where_it_differs(key: str, value: Any, begins: str, tmp_path: Path) -> None:
    assert trials(recipe({"a": {key: value}}), tmp_path)[1].begins_with == begins


def test_the_pool_reads_no_other_key_of_rl() -> None:
    read = set()
    for name in ("pool.py", "pool_rollouts.py"):
        for node in ast.walk(ast.parse((SOURCES / "train" / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("recipe.rl"):
                read.add(node.attr)
            assert not (isinstance(node, ast.Assign) and ast.unparse(node.value).endswith("recipe.rl"))
    assert read <= set(POOL_READS)


def test_earlier_stages_are_linked_and_later_ones_are_not(tmp_path: Path) -> None:
    base, run = (Run.open(tmp_path / name, Recipe(name=name)) for name in ("base-seed0", "a-seed0"))
    for stage, file in {"curate": "curate/x", "sft": "sft/model/x", "pool": "rl_pool/x", "rl": "rl/x"}.items():
        write_json(base.path / file, stage)
        write_json(base.path / "done" / f"{stage}.json", {"of": stage})
    for stage in ("base", "sft", "rl"):
        write_json(base.path / "eval" / f"{stage}.json", stage)
        write_json(base.path / "done" / f"eval_{stage}.json", {})
    take_over(base, run, "rl")
    take_over(base, run, "rl")
    assert read_json(run.path / "sft/model/x") == "sft"
    assert read_json(run.path / "eval/sft.json") == "sft"
    assert sorted(path.stem for path in (run.path / "done").iterdir()) == [
        "curate", "eval_base", "eval_sft", "pool", "sft",
    ]  # fmt: skip
    assert not (run.path / "rl").exists()
    assert not (run.path / "eval/rl.json").exists()
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    assert read_json(moved / "a-seed0/sft/model/x") == "sft", "links are relative: the whole can be moved"


def reported(variant: str, seed: int, right: list[int], tokens: float = 10.0) -> Reported:
    """Four answers to each problem, two of them right after SFT."""

    def result(counts: list[int]) -> EvalResult:
        outcomes = [ProblemOutcome(problem_id=str(i), correct=n, samples=4) for i, n in enumerate(counts)]
        return EvalResult(pass_at_1=sum(counts) / (4 * len(counts)), outcomes=outcomes)

    report = RunReport(
        path=Path(variant), recipe={"rl": {"num_generations": 8}}, attempts=[], stages={}, curate=None, dropped=[],
        sft=[], rl_pool=None, rl=[{"mean_tokens": tokens, "groups_generated": 5}], scaling=None, missing=[],
        evals={"sft": result([2] * len(right)), "rl": result(right)},
    )  # fmt: skip
    return Reported(variant, seed, {}, report, "rl")


def test_a_variant_is_compared_with_the_base_on_the_seeds_that_both_have() -> None:
    runs = [
        reported("base", 0, [2, 2, 3, 3]), reported("base", 1, [2, 2, 2, 2]), reported("better", 0, [4, 4, 4, 4], 20),
    ]  # fmt: skip
    base, better = rows_of(runs, "base")
    assert base.against is None
    assert (base.pass_at_1, base.seeds) == (pytest.approx((10 / 16 + 8 / 16) / 2), [0, 1])
    assert base.spread == pytest.approx(2 / 16 / 2**0.5)
    assert better.against is not None
    assert better.against.value == pytest.approx(1 - 10 / 16), "not against the other seed, whose score is lower"
    assert (better.against.better, better.against.problems) == (4, 4)
    assert better.against.interval[0] > 0
    assert better.tokens == 20 * 5 * 8
    assert better.tokens_per_point == pytest.approx(800 / 50)
    assert better.spread is None


def test_a_variant_without_gain_has_no_price_per_point() -> None:
    (row,) = rows_of([reported("base", 0, [2, 2, 1, 2])], "base")
    assert row.gain is not None
    assert row.gain.value < 0
    assert row.tokens_per_point is None


SMALLEST = {
    "problems.train": 40, "problems.rl": 4, "problems.held_out": 4, "sft.epochs": 1, "eval.samples": 1,
    "eval.max_tokens": 16,
}  # fmt: skip


@pytest.mark.slow
def test_an_ablation_runs_once_and_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of SFT, whose runs are shorter than those of RL."""
    small = load_recipe(SOURCES / "recipes" / "smoke.toml", SMALLEST)
    section = {"variants": {"twice": {"sft.epochs": 2}}, "until": "eval_sft"}
    file, out = tmp_path / "recipe.json", tmp_path / "out"
    write_json(file, {**small.model_dump(mode="json"), "ablation": section})
    with pytest.raises(SystemExit) as ended:
        main(["ablate", str(file), "--out", str(out), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in found["variants"]] == ["base", "twice"]
    assert found["variants"][1]["against"] is not None
    assert (out / "twice-seed0" / "curate").is_symlink()
    assert not (out / "twice-seed0" / "sft").is_symlink()
    page = (out / "ablation.html").read_text(encoding="utf-8")
    assert "sft.epochs" in page
    assert 'href="twice-seed0/report.html"' in page
    planned = trials(load_recipe(file), out)
    assert [ran for _, _, ran in run_trials(planned, "eval_sft")] == [False] * 8

    def paged(*more: str) -> tuple[int, str]:
        try:
            code = main(["ablate", str(file), *more])
        except SystemExit as ended:
            code = int(str(ended.code))
        said = capsys.readouterr()
        return code, said.out + said.err

    page_file = tmp_path / "page.md"
    asked = ["--markdown", str(page_file), "--runs", str(out)]
    assert paged(*asked)[0] == 0
    rows = [line.split(" | ") for line in page_file.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| variant", "| base", "| twice", "| variant", "| twice"]
    assert rows[0][1] == "seeds"
    assert rows[1][1] == rows[2][1] == "0"
    assert rows[2][4].endswith(" points")
    assert "`sft.epochs = 2`" in rows[4][1]
    (out / "twice-seed0/done/eval_sft.json").rename(out / "kept")
    assert paged(*asked)[0] == 0
    text = page_file.read_text(encoding="utf-8")
    assert "In no row: twice-seed0 (not finished)." in text
    assert "| twice" not in text
    code, said = paged(*asked, "--runs", str(out))
    assert code != 0
    assert "base-seed0 is in" in said
    code, said = paged(*asked, "--set", "sft.batch_size=1")
    assert code != 0
    assert "base-seed0 (made with another sft.batch_size) and twice-seed0 (not finished); finish them" in said
    assert paged("--runs", str(out))[0] != 0
