"""SIGTERM and a time limit: a checkpoint, an exit code that says to go on, and the bits of an unbroken run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_rl import RL, ready_for_rl
from tiny_training import assert_same_stage, metrics_of, run_from, train_rl_in, train_sft_in, training_recipe

from h1r.cli import main
from h1r.errors import StoppedEarlyError
from h1r.run.checkpoints import Checkpoints
from h1r.run.metrics import Metrics
from h1r.train.parallel.world import ALONE
from h1r.train.stopping import Stopping

SFT = {"epochs": 1, "batch_size": 2, "micro_batch_size": 1, "seq_len": 128, "checkpoint_every": 100}


@pytest.fixture
def told_after(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """This process is sent SIGTERM when it has logged the step under "step"."""
    at: dict[str, int] = {}
    real = Metrics.log

    def log(metrics: Metrics, step: int, values: Mapping[str, float | None]) -> None:
        real(metrics, step, values)
        if at.get("step") == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Metrics, "log", log)
    return at


def test_sft_that_is_sent_sigterm_saves_and_goes_on_to_the_same_bits(
    curated: Path, tmp_path: Path, told_after: dict[str, int]
) -> None:
    recipe = training_recipe(sft=SFT)
    unbroken, stopped = (run_from(curated, tmp_path / name, recipe) for name in ("unbroken", "stopped"))
    expected = train_sft_in(unbroken, recipe)
    assert expected["steps"] > 3
    told_after["step"] = 1
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedEarlyError, match=r"sft ends at step 2 of \d+, since it was sent SIGTERM; --resume goes"):
        train_sft_in(stopped, recipe)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (stopped.path / "sft" / "model").exists()
    assert Checkpoints(stopped.path / "sft").step_to_resume(True) == 2
    told_after.clear()
    assert train_sft_in(stopped, recipe, resume=True) == expected
    assert_same_stage(stopped.path / "sft", unbroken.path / "sft")


def test_rl_that_is_sent_sigterm_saves_and_goes_on_to_the_same_bits(
    curated: Path, tmp_path: Path, told_after: dict[str, int]
) -> None:
    recipe = training_recipe(rl={**RL, "steps": 4})
    unbroken, stopped = (ready_for_rl(curated, tmp_path / name, recipe) for name in ("unbroken", "stopped"))
    expected = train_rl_in(unbroken, recipe)
    told_after["step"] = 1
    with pytest.raises(StoppedEarlyError, match="rl ends at step 2 of 4"):
        train_rl_in(stopped, recipe)
    told_after.clear()
    assert train_rl_in(stopped, recipe, resume=True) == expected
    assert_same_stage(stopped.path / "rl", unbroken.path / "rl")


def exit_code(arguments: list[str]) -> int:
    """Of the command line, whose program returns it or raises it."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_a_time_limit_ends_every_attempt_after_a_step_with_its_exit_code_until_the_run_is_done(
    curated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = training_recipe(sft={**SFT, "batch_size": 8, "time_limit_s": 1e-9, "keep_checkpoints": 1})
    run = run_from(curated, tmp_path / "run", recipe)
    codes = []
    while not (run.path / "sft" / "model").exists():
        codes.append(exit_code(["sft", "--resume", str(run.path)]))
        assert len(codes) < 9
    steps = len(metrics_of(run.path / "sft"))
    assert codes == [75] * (steps - 1) + [0]
    assert f"sft ends at step 1 of {steps}, since its 1e-09 s (time_limit_s) are over" in capsys.readouterr().err
    assert len(list((run.path / "sft" / "checkpoints").glob("step_*"))) == 1


def test_without_a_limit_and_a_signal_nothing_ends() -> None:
    with Stopping(None, ALONE) as stopping:
        assert stopping.why() is None


def test_a_time_limit_that_began_before_is_over_sooner() -> None:
    with Stopping(60.0, ALONE, time.monotonic() - 30) as stopping:
        assert stopping.why() is None
    with Stopping(60.0, ALONE, time.monotonic() - 61) as stopping:
        assert stopping.why() == "its 60 s (time_limit_s) are over"
