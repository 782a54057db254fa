"""The examples of a verifier and of a reward, each run from its recipe through the command line."""

from pathlib import Path

import pytest

import warm
from h1r.common.files import read_json
from h1r.records import Problem, read_jsonl
from h1r.run.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]


def demo(recipe: str, out: Path) -> None:
    """`h1r demo` from the root of the checkout, where the recipes say that their files are."""
    done = warm.run("demo", f"examples/{recipe}", "--out", out, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_an_own_verifier_is_used_in_curation_rl_and_evaluation(tmp_path: Path) -> None:
    demo("own_verifier.toml", tmp_path)
    assert read_json(tmp_path / "recipe.json")["plugins"] == [str(ROOT / "examples" / "own_verifier.py")]
    curated = list(read_jsonl(tmp_path / "curate" / "problems_rl.jsonl", Problem))
    assert {problem.verifier for problem in curated} == {"letter_set"}
    steps = read_metrics(tmp_path / "rl" / "metrics.jsonl")
    assert len(steps) == 2
    assert all("reward/correct" in step for step in steps)
    found = read_json(tmp_path / "done" / "eval_rl.json")
    # Of the problems' other verifiers none says these two things of an answer alone.
    assert set(found["faults"]["reasons"]) <= {"not_extracted", "wrong"}


@pytest.mark.slow
def test_an_own_reward_gives_groups_a_signal_and_is_logged(tmp_path: Path) -> None:
    demo("own_reward.toml", tmp_path)
    for step in read_metrics(tmp_path / "rl" / "metrics.jsonl"):
        assert -1 < step["reward/brevity"] < 0
        expected = step["reward/correct"] + 0.1 * step["reward/format"] + 0.2 * step["reward/brevity"]
        assert step["reward"] == pytest.approx(expected)
        assert step["groups"] == 2
