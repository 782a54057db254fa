"""Ctrl-C, as a person presses it: what was done is kept, and the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import warm
from h1r.run.checkpoints import Checkpoints
from h1r.run.metrics import read_metrics
from h1r.train.parallel.world import ALONE
from h1r.train.stopping import Stopping
from small_checkpoint import small_checkpoint

QUESTIONS = ("What is 2 + 2?", "What is 1 + 2?")


def wait_for(process: warm.Process, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, process.stderr.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stopped_at(stage: str, run: Path, *command: object, steps: int) -> int:
    """Starts a command, presses Ctrl-C when `steps` steps of a stage are logged; returns the step that was kept."""
    log = run / stage / "metrics.jsonl"
    process = warm.start(*command)
    wait_for(process, lambda: log.exists() and len(read_metrics(log)) >= steps)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    said = process.stderr.read_text()
    assert said.endswith(f"h1r: stopped; `h1r {stage} --resume {run}` goes on\n"), said
    assert not (run / stage / "model").exists()
    found = Checkpoints(run / stage).latest()
    assert found is not None
    assert found[0] == len(read_metrics(log)) >= steps
    return found[0]


def finished(*command: object) -> None:
    done = warm.run(*command)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_that_was_stopped_loses_no_whole_step_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model = small_checkpoint(tmp_path / "model")
    rows = [{"question": q, "answer": rf"\boxed{{{n}}}"} for q, n in zip(QUESTIONS * 2, (4, 3, 5, 7), strict=True)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = [f"{json.dumps({'question': q, 'answer': n})}\n" for q, n in zip(QUESTIONS, "43", strict=True)]
    (tmp_path / "problems.jsonl").write_text("".join(few))
    learn = ("sft.epochs=40", "sft.optimizer.learning_rate=2e-2", "sft.checkpoint_every=100000")
    reinforce = (
        "rl_pool.rollouts=0", "rl.steps=12", "rl.batch_size=2", "rl.num_generations=8", "rl.max_tokens=12",
        "rl.optimizer.learning_rate=1e-3", "rl.checkpoint_every=100000", "verify.workers=1",
    )  # fmt: skip
    sft, rl = ([part for key in keys for part in ("--set", key)] for keys in (learn, reinforce))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start = ("sft", tmp_path / "own.jsonl", "--model", model, *sft)
    finished(*start, "--out", whole)
    assert stopped_at("sft", broken, *start, "--out", broken, steps=5) < 40
    finished("sft", "--resume", broken)
    assert weights(whole / "sft") == weights(broken / "sft")
    start = ("rl", "--model", whole / "sft/model", "--problems", tmp_path / "problems.jsonl", *rl)
    recipe = tmp_path / "rl.toml"
    recipe.write_text('name = "r"\n[chat]\nsystem_prompt = ""\n')
    shutil.rmtree(broken)
    finished(start[0], recipe, *start[1:], "--out", tmp_path / "whole-rl")
    assert stopped_at("rl", broken, start[0], recipe, *start[1:], "--out", broken, steps=3) < 12
    finished("rl", "--resume", broken)
    assert weights(tmp_path / "whole-rl" / "rl") == weights(broken / "rl")


def weights(stage: Path) -> bytes:
    return (stage / "model" / "model.safetensors").read_bytes()


def test_generate_that_is_stopped_prints_what_has_ended(tmp_path: Path) -> None:
    model = small_checkpoint(tmp_path / "model")
    process = warm.start(
        "generate", model, "-p", "hi", "-n", "4000", "--max-tokens", "40", "--set", "engine.max_sequences=4"
    )
    wait_for(process, lambda: "decoding:" in process.stderr.read_text())
    began = processor_seconds(process.pid)
    wait_for(process, lambda: processor_seconds(process.pid) > began + 1)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    ended = process.stdout.read_text().count("--- question 1, trace ")
    assert 0 < ended < 4000
    assert process.stderr.read_text().endswith(
        f"h1r: stopped; {ended} of 4000 traces had ended; run it again for all\n"
    )


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ctrl_c_waits_for_the_end_of_a_step_and_a_second_one_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    with Stopping(None, ALONE) as stopping:
        assert stopping.why() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.why() == "Ctrl-C was pressed"
        assert isinstance(stopping.ended("told"), KeyboardInterrupt)
        assert "ending this step; Ctrl-C again to stop at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
