"""examples/own_environment.py, through the command line and turn by turn."""

from __future__ import annotations

from pathlib import Path

import pytest

import warm
from h1r.common.files import read_json
from h1r.common.plugins import load_plugins
from h1r.config import EnvironmentSection
from h1r.records import Message, Problem, Trace
from h1r.rollout.environment import environment_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
def test_the_command_line_evaluates_in_the_environment_that_the_recipe_names(tmp_path: Path) -> None:
    sizes = ["--set", "problems.held_out=4", "--set", "problems.train=24", "--set", "problems.rl=4",
             "--set", "eval.max_tokens=48"]  # fmt: skip
    for command in (
        ["curate", str(EXAMPLES / "own_environment.toml"), "--out", str(tmp_path / "run"), *sizes],
        ["eval", str(tmp_path / "run"), "--model", "base", "--no-scaling"],
    ):
        done = warm.run(*command)
        assert done.returncode == 0, done.stderr
    result = read_json(tmp_path / "run" / "eval" / "base.json")
    # The mathematical verifier would say of random text that it holds no answer; the environment gives it a reward.
    assert result["reasons"] == {"wrong": 1.0}
    assert result["error"] == 0.0


def test_a_hint_follows_each_wrong_answer_and_the_reward_counts_the_first() -> None:
    load_plugins([str(EXAMPLES / "own_environment.py")])
    problem = Problem("p", "3 + 4?", "7")
    for answers, reward in ((["7"], 1.0), (["9", "7"], 0.5), (["5", "x"], 0.0)):
        make = environment_for(problem, EnvironmentSection(kind="hints"))
        assert make is not None
        game = make()
        game.start(problem)
        replies = [game.step(Message("assistant", rf"\boxed{{{answer}}}")) for answer in answers]
        hints = {"7": None, "9": "Too high.", "5": "Too low.", "x": "I see no number."}
        for answer, reply in zip(answers, replies, strict=True):
            expected = hints[answer]
            assert (reply is None) == (expected is None)
            assert expected is None or (isinstance(reply, Message) and reply.content.startswith(expected))
        assert game.reward(Trace(0, 0, [], "", [], [], [], "stop")) == reward
