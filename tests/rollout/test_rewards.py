"""Rewards: named parts, and their weighted sum."""

from pathlib import Path

import pytest

from h1r.config import RLSection, load_recipe
from h1r.config.text import to_toml
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.rollout.rewards import REWARDS, Rewards, reward

PROBLEM = Problem("p", "2+2?", "4")


def of(verdict: Verdict, section: RLSection | None = None, text: str = "") -> float:
    section = section or RLSection()
    rewards = Rewards(section.rewards, section.format_conditions)
    return rewards.total(rewards.parts(PROBLEM, text, verdict))


@pytest.mark.parametrize("penalty", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("missed", [0, 1])
@pytest.mark.parametrize("correct", [0.0, 1 / 3, 1.0])
def test_the_default_is_correctness_less_the_format_penalty_to_the_bit(
    penalty: float, missed: int, correct: float
) -> None:
    section = RLSection(rewards={"format": penalty})
    verdict = Verdict(correct, {"correct": correct, "format": 1.0 - missed})
    assert of(verdict, section) == correct - penalty * missed


def test_only_the_recipes_format_conditions_cost_the_penalty() -> None:
    verdict = Verdict(1.0, {"correct": 1.0, "format": 0.0, "well_formed": 1.0, "coherent": 1.0, "one_script": 0.0})
    assert of(verdict) == 0.9
    assert of(verdict, RLSection(format_conditions=["well_formed", "coherent"])) == 1.0


def test_a_verdict_without_parts_scores_as_wrong_and_ill_formed() -> None:
    assert of(Verdict(0.0, error="not graded")) == -0.1


def test_a_part_of_a_users_own_counts_with_its_weight_beside_the_others() -> None:
    @reward("test-brevity", replace=True)
    def brevity(problem: Problem, text: str, verdict: Verdict) -> float:
        return -len(text)

    section = RLSection(rewards={"test-brevity": 0.25})
    rewards = Rewards(section.rewards)
    parts = rewards.parts(PROBLEM, "four", Verdict(1.0, {"correct": 1.0, "format": 1.0}))
    assert parts == {"correct": 1.0, "format": 0.0, "test-brevity": -4.0}
    assert rewards.total(parts) == 0.0
    assert REWARDS.require("test-brevity") is brevity


def test_a_part_of_weight_0_is_not_computed() -> None:
    rewards = Rewards({"correct": 1.0, "format": 0.0, "nobody": 0.0})
    assert rewards.parts(PROBLEM, "", Verdict(0.5, {"correct": 0.5})) == {"correct": 0.5}
    assert not rewards.needs_format
    assert Rewards({"format": 0.1}).needs_format


def test_an_unknown_part_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match="unknown reward `corect`; use one of `correct`"):
        Rewards({"corect": 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much", None])
def test_a_part_that_is_no_finite_number_is_one_sentence(value: object) -> None:
    reward("test-odd", replace=True)(lambda *_: value)
    with pytest.raises(UserError, match=r"reward `test-odd` .* problem `p`"):
        Rewards({"test-odd": 1.0}).parts(PROBLEM, "", Verdict(0.0))


def test_a_recipe_of_an_earlier_version_keeps_its_format_penalty() -> None:
    assert RLSection.model_validate({"format_penalty": 0.3}).rewards == {"correct": 1.0, "format": 0.3}


def test_weights_are_written_to_toml_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('name = "x"\n[rl.rewards]\n"own.part" = 2.0\n')
    recipe = load_recipe(tmp_path / "x.toml")
    assert recipe.rl.rewards == {"correct": 1.0, "format": 0.1, "own.part": 2.0}
    (tmp_path / "y.toml").write_text(to_toml(recipe))
    assert load_recipe(tmp_path / "y.toml") == recipe
