"""What a person does after `kill -9`: the same command with --resume, through the real program."""

import shutil
import sys
import time
from pathlib import Path

import pytest

import warm

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from kill_test import RECIPE, weights

SHORTER = ("--set", "sft.epochs=6", "--set", "rl.steps=6")


def run(*arguments: str | Path) -> None:
    warm.run(*arguments).check_returncode()


def kill_after_first_checkpoint(stage: str, path: Path) -> None:
    """Starts a stage, waits for a whole checkpoint, and kills it without warning."""
    process = warm.start(stage, path)
    try:
        deadline = time.monotonic() + 200
        while not list((path / stage / "checkpoints").glob("step_*")):
            assert process.poll() is None, f"{stage} ended before it could be killed"
            assert time.monotonic() < deadline, f"{stage} wrote no checkpoint"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (path / stage / "model").exists(), f"{stage} was finished before it was killed"


@pytest.mark.slow
def test_training_that_was_killed_resumes_to_the_bits_of_an_unbroken_run(tmp_path: Path) -> None:
    recipe, unbroken, killed = tmp_path / "kill.toml", tmp_path / "unbroken", tmp_path / "killed"
    recipe.write_text(RECIPE)
    run("curate", recipe, "--out", unbroken, *SHORTER)
    shutil.copytree(unbroken, killed)
    for stage in ("sft", "rl"):
        run(stage, unbroken)
        kill_after_first_checkpoint(stage, killed)
        run(stage, "--resume", killed)
        assert weights(unbroken, stage) == weights(killed, stage), stage
