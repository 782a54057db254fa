"""What is said where vLLM's core has died, or weights for an engine find no room; without vLLM."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors import SafetensorError

from h1r.engine.vllm.living import Living
from h1r.engine.vllm.weights import weight_files
from h1r.errors import EngineLostError, UserError
from h1r.models import build
from h1r.models.registry import preset
from h1r.train.cluster import engine_actor
from h1r.train.fleet import write_weights


class DeadError(Exception):
    """In the place of vLLM's `EngineDeadError`."""


def step(dead: bool) -> list[int]:
    if dead:
        raise DeadError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
    return [1]


def test_a_core_that_died_is_one_sentence_and_all_else_passes() -> None:
    core = Living(SimpleNamespace(step=step, tokens=7, other=lambda: 1 / 0), DeadError)
    assert (core.step(False), core.tokens) == ([1], 7)
    with pytest.raises(EngineLostError, match=r"vLLM's own process has died, .*goes on with --resume"):
        core.step(True)
    with pytest.raises(ZeroDivisionError):
        core.other()


def test_an_actor_whose_engine_died_dies_too_so_that_another_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    def leave(code: int) -> None:
        ended.append(code)
        raise SystemExit

    monkeypatch.setattr(engine_actor.os, "_exit", leave)

    def lost() -> Any:
        raise EngineLostError("vLLM's own process has died")

    with pytest.raises(SystemExit):
        engine_actor._run(engine_actor._Job(lost))
    assert ended == [1]
    job = engine_actor._Job(lambda: 1 / 0)
    engine_actor._run(job)
    assert isinstance(job.future.exception(), ZeroDivisionError)


def test_a_full_memory_directory_is_named_with_the_key() -> None:
    model = build(preset("tiny"), seed=0)
    full = SafetensorError("I/O error: No space left on device (os error 28)")
    with (
        mock.patch("h1r.engine.vllm.weights.save_file", side_effect=full),
        pytest.raises(
            UserError, match=r"in /dev/shm \(.*No space left.*\); make room there, or set engine.weights_dir"
        ),
        weight_files(model.config, {"a": torch.zeros(1)}, "/dev/shm"),
    ):
        raise AssertionError("it is not written")


def test_so_is_that_of_a_trainer_that_writes_for_engines(tmp_path: Path) -> None:
    model = build(preset("tiny"), seed=0)
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch("h1r.models.checkpoint.write_streamed", side_effect=full),
        pytest.raises(
            UserError, match=r"No space left on device; make room there, or set engine.weights_directory to a"
        ),
    ):
        write_weights(model, mock.Mock(), tmp_path / "model", mock.Mock(), engine_actor.ALONE)
