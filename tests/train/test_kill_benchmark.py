"""What `benchmarks/kill_test.py` counts: it finds a step that is lost, one that is there twice, and a changed bit."""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def open_pidfd(process: int) -> Iterator[int]:
    """Readable once the process has ended."""
    opened = os.pidfd_open(process)
    try:
        yield opened
    finally:
        os.close(opened)


def test_a_process_that_torchrun_started_is_told_when_torchrun_was_killed() -> None:
    child = (
        "import signal, sys; from h1r.common.orphans import end_with_parent; end_with_parent(); "
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit())); "
        "print('ready', flush=True); signal.pause()"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.readline() == "saved\n"


@pytest.mark.parametrize(
    ("init", "by_torchrun", "ends"),
    [
        ("/sbin/init", True, True),
        (None, True, True),
        (os.path.realpath(sys.executable), True, False),
        ("/usr/bin/env torchrun", True, False),
        ("/bin/sh", False, False),
    ],
    ids=["init", "another user's", "the launcher is init", "the launcher's name", "a script is init and starts it"],
)
def test_a_process_whose_torchrun_was_killed_before_it_could_ask_ends_at_once(
    tmp_path: Path, init: str | None, by_torchrun: bool, ends: bool
) -> None:
    one = tmp_path / "1"
    one.mkdir()
    if init is not None:
        (one / "exe").symlink_to(init.split()[0])
        (one / "cmdline").write_bytes(init.replace(" ", "\0").encode())
    program = (
        "import os, pathlib, sys; from h1r.common.orphans import end_with_parent; os.getppid = lambda: 1; "
        "end_with_parent(pathlib.Path(sys.argv[1]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    environment |= {"TORCHELASTIC_RUN_ID": "none"} if by_torchrun else {}
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False)
    assert found.returncode == (-signal.SIGTERM if ends else 0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("kill_test")


def trained(path: Path, steps: list[int], weights: bytes = b"same", loss: float = 1.0, clock: float = 0.0) -> Path:
    model = path / "sft" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(weights)
    rows = [{"step": step, "loss": loss, "time": clock + step} for step in steps]
    (path / "sft" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("steps", "changed", "expected"),
    [
        ([1, 2, 3], {"clock": 50.0}, (0, 0, True)),
        ([1, 3], {}, (1, 0, False)),
        ([1, 2, 2, 3], {}, (0, 1, False)),
        ([1, 2, 3], {"weights": b"other"}, (0, 0, False)),
        ([1, 2, 3], {"loss": 1.0000001}, (0, 0, False)),
    ],
    ids=["another clock", "lost", "repeated", "other weights", "another loss"],
)
def test_a_run_is_compared_step_by_step_and_bit_by_bit(
    bench: Any, tmp_path: Path, steps: list[int], changed: dict[str, Any], expected: tuple[int, int, bool]
) -> None:
    tally = bench.Tally()
    tally.compare("sft", trained(tmp_path / "killed", steps, **changed), trained(tmp_path / "unbroken", [1, 2, 3]))
    assert (tally.lost, tally.repeated, tally.bit_equal) == expected
    assert tally.finished == 1
    assert bool(tally.why) != tally.bit_equal


def test_a_run_that_does_not_go_on_is_no_success(bench: Any) -> None:
    tally = bench.Tally()
    tally.failed("it hangs")
    assert tally.numbers()["bit_equal"] is False
    assert tally.numbers()["why"] == ["it hangs"]


def test_victims_are_found_among_children_and_theirs(bench: Any) -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, start_new_session=True)
    try:
        while not bench.below(process.pid):
            assert process.poll() is None
        (child,) = bench.below(process.pid)
        assert os.getpgid(child) == process.pid
        assert child in bench.below(os.getpid())
    finally:
        bench.end(process)
    assert process.returncode is not None


def test_nothing_is_left_of_what_was_started_in_a_session_of_its_own(bench: Any) -> None:
    grandchild = "[sys.executable, '-c', 'import sys; sys.stdin.read()']"
    program = f"import subprocess, sys; subprocess.run({grandchild}, start_new_session=True)"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, start_new_session=True)
    while not bench.below(process.pid):
        assert process.poll() is None
    (child,) = bench.below(process.pid)
    with open_pidfd(child) as ended:
        bench.end(process)
        assert select.select([ended], [], [], 20)[0]


def test_ranks_go_to_a_meeting_of_their_own(bench: Any, tmp_path: Path) -> None:
    """With a port and an id that others may have, torchrun waits in silence for a run that is not its own."""
    assert "--standalone" in bench.launched(tmp_path, 3)


def test_actors_are_found_by_their_titles(bench: Any) -> None:
    program = "import sys; print('up', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    for title, expected in (("ray::TrainerActor.step", "a trainer"), ("ray::EngineActor", "an engine"), ("ray", "")):
        with subprocess.Popen([title, "-c", program], executable=sys.executable, stdin=pipe, stdout=pipe) as process:
            assert process.stdout is not None
            process.stdout.readline()  # until then a process that has just begun may have no title yet
            found = [kind for kind in (*bench.ACTORS, "the driver") if bench.is_actor(process.pid, kind)]
            assert found == [expected] * bool(expected)
    assert not bench.is_actor(process.pid, "a trainer")


def test_a_moment_is_a_step_that_the_run_has_come_to(bench: Any, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", [1])
    program = "import sys; f = open(sys.argv[1], 'a'); [print('{}', file=f, flush=True) for _ in sys.stdin]"
    command = [sys.executable, "-c", program, str(run / "sft" / "metrics.jsonl")]

    class Draw:
        @staticmethod
        def uniform(low: float, high: float) -> float:
            assert (low, high) == (0, 0.3)
            return 0.0

    done = partial(bench.steps_done, run, "sft")
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"step\n" * 2)
        process.stdin.flush()
        assert bench.comes_to(process, done, 3, Draw())
        assert done() == 3
        process.stdin.write(b"step\n")
        process.stdin.close()
        assert not bench.comes_to(process, done, 5, Draw())
    assert done() == 4
    assert not bench.killed(process.pid)
