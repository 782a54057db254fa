"""RL in stages over domains: the paper's Table 3 as recipes, and a pool that the stage before decides."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_rl_from_checkpoint import ROWS, checkpoint, opened  # noqa: F401
from tiny_training import checksum_verdicts

from h1r.config import find_recipe, load_recipe
from h1r.data.tokenizer import load_tokenizer
from h1r.models import build, load, save
from h1r.run.changes import differences
from h1r.train import pool
from h1r.train.plan.cards import parse_cards
from h1r.train.plan.plan import plan
from h1r.verify.registry import require

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "rl-stages.md"
SFT = "runs/h1r-7b-cluster/sft/model"
TABLE_3 = {
    "math": (SFT, {"rl.problems", "rl.checkpoint", "rl_pool.only_gradable"}),
    "code": (SFT, {"rl.problems", "rl.checkpoint", "rl.max_tests"}),
    "science": (SFT, {"rl.problems", "rl.checkpoint", "judge.urls", "judge.model"}),
    "math-then-code": ("runs/h1r-7b-rl-math/rl/model", {"rl.problems", "rl.checkpoint", "rl.max_tests"}),
    "mixed": (SFT, {"rl.problems", "rl.checkpoint", "rl.max_tests", "rl_pool.only_gradable"}),
}


@pytest.mark.parametrize("stage", TABLE_3)
def test_a_stage_is_the_papers_run_with_other_problems(stage: str) -> None:
    start, expected = TABLE_3[stage]
    recipe, base = (load_recipe(find_recipe(name), {}) for name in (f"h1r-7b-rl-{stage}", "h1r-7b-cluster"))
    changed = differences(base.model_dump(mode="json"), recipe.model_dump(mode="json"))
    assert {key for key in changed if key != "name"} == expected
    assert recipe.rl.checkpoint == start
    assert recipe.name == f"h1r-7b-rl-{stage}"
    made = plan(recipe, "rl", parse_cards("256xH100"))
    assert made.fits
    assert made.memory == plan(base, "rl", parse_cards("256xH100")).memory
    (row,) = re.findall(rf"^\| `{recipe.name}` .*\| ([\d., ]+)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert f"in the paper: {row.strip()}" in find_recipe(recipe.name).read_text(encoding="utf-8")


def test_the_problems_of_the_page_have_verifiers() -> None:
    lines = re.findall(r"^\{\"question.*\}$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [json.loads(line)["verifier"] for line in lines] == ["math", "code", "judge"]
    for line in lines:
        assert require(json.loads(line)["verifier"]) is not None


def test_the_pool_of_a_stage_is_measured_with_the_model_of_the_stage_before(
    checkpoint: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Verdicts are a function of the answer's text, and texts of the weights."""
    backend = SimpleNamespace(verify_many=checksum_verdicts)
    monkeypatch.setattr(pool, "open_backend", lambda *_, **__: nullcontext(backend))
    before = save(build(load(checkpoint).config, seed=7), tmp_path / "math" / "model", load_tokenizer(checkpoint))
    measured = []
    for number, start in enumerate([checkpoint, before, before]):
        place = tmp_path / str(number)
        place.mkdir()
        recipe, run = opened(place, start, [*ROWS], rl_pool={"rollouts": 8})
        pool.build_pool(recipe, run)
        lines = (run.path / "rl_pool" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        measured.append([[one["reward"] for one in json.loads(line)["verdicts"]] for line in lines])
    assert len(measured[0]) == len(ROWS)
    assert measured[0] != measured[1]
    assert measured[1] == measured[2]
