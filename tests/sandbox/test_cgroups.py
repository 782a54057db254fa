"""Control groups around a fork server: where they are made, what they bound, that nothing of them is left."""

import os
import subprocess
from pathlib import Path

import pytest

from h1r.sandbox import Isolation, Limits, Sandbox, cgroups, refusal


def hierarchy(top: Path, handed_on: dict[str, str]) -> None:
    for name, controllers in handed_on.items():
        (top / name).mkdir(parents=True, exist_ok=True)
        (top / name / "cgroup.subtree_control").write_text(controllers)


@pytest.fixture
def fresh_place():
    cgroups.place.cache_clear()
    yield
    cgroups.place.cache_clear()


def test_the_nearest_group_that_hands_its_controllers_on_is_taken(tmp_path, monkeypatch, fresh_place):
    hierarchy(tmp_path, {".": "cpu memory pids", "user": "cpu memory pids", "user/session": ""})
    mounts, own = tmp_path / "mountinfo", tmp_path / "own"
    mounts.write_text(f"30 24 0:26 / {tmp_path} rw,nosuid - cgroup2 cgroup2 rw\n")
    own.write_text("12:pids:/elsewhere\n0::/user/session\n")
    found = cgroups._above_this_process(str(mounts), str(own))
    assert found == [tmp_path / "user/session", tmp_path / "user", tmp_path]
    monkeypatch.setattr(cgroups, "_above_this_process", lambda: found)
    monkeypatch.delenv(cgroups.VARIABLE, raising=False)
    assert cgroups.place() == (tmp_path / "user", "")
    assert sorted(path.name for path in (tmp_path / "user").iterdir()) == ["cgroup.subtree_control", "session"]


def test_a_place_that_hands_on_too_little_is_refused_with_the_reason(tmp_path, monkeypatch, fresh_place):
    hierarchy(tmp_path, {"named": "cpu pids"})
    monkeypatch.setenv(cgroups.VARIABLE, str(tmp_path / "named"))
    assert cgroups.place() == (None, f"{tmp_path / 'named'} does not hand on memory")
    cgroups.place.cache_clear()
    monkeypatch.setenv(cgroups.VARIABLE, str(tmp_path / "absent"))
    assert cgroups.place()[0] is None


def test_a_group_bounds_tasks_memory_and_processors(tmp_path):
    group = cgroups.ControlGroup.below(tmp_path)
    for name in ("pids.max", "memory.max", "cpu.max"):
        (group.folder / name).touch()
    group.limit(Limits(memory_bytes=1 << 30, scratch_bytes=32 << 20))
    written = {name: (group.folder / name).read_text() for name in ("pids.max", "memory.max", "cpu.max")}
    assert written == {"pids.max": "73", "memory.max": str((1 << 30) + (288 << 20)), "cpu.max": "400000 100000"}
    assert not (group.folder / "memory.swap.max").exists()  # the kernel makes these files, nobody else can


def test_a_command_that_cannot_enter_its_group_does_not_run(tmp_path):
    group = cgroups.ControlGroup.below(tmp_path)
    assert subprocess.run(group.enter(["/bin/echo", "ran"]), capture_output=True, check=False).stdout == b"ran\n"
    assert (group.folder / "cgroup.procs").read_text() == "0\n"
    lost = cgroups.ControlGroup(tmp_path / "lost")
    run = subprocess.run(lost.enter(["/bin/echo", "ran"]), capture_output=True, check=False)
    assert (run.stdout, run.returncode != 0) == (b"", True)


def kernel_place() -> Path | None:
    """A real hierarchy, with whatever controllers it has: entering, killing and removing need none."""
    for folder in reversed(cgroups._above_this_process()):
        if os.access(folder, os.W_OK):
            return folder
    return None


@pytest.mark.parametrize(
    "level", [Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK], ids=lambda it: it.name
)
def test_a_fork_server_and_its_runs_are_in_their_group_and_it_is_gone_with_them(level, monkeypatch):
    if why := refusal(level):
        pytest.skip(why)
    top = kernel_place()
    if top is None:
        pytest.skip("no cgroup v2 that this user may change")
    monkeypatch.setattr(cgroups, "place", lambda: (top, ""))
    with Sandbox(level) as sandbox:
        try:
            with sandbox.open({"kind": "calls", "code": ["def f(): return 1"]}) as session:
                assert session.receive()[0] == {"value": True}
                (folder,) = top.glob(f"h1r-sandbox-{os.getpid()}-*")
                assert len((folder / "cgroup.procs").read_text().split()) >= 2
        finally:
            sandbox.close()
    assert list(top.glob(f"h1r-sandbox-{os.getpid()}-*")) == []


def test_the_group_bounds_what_the_limits_of_each_process_do_not():
    if refusal(Isolation.NAMESPACES) or cgroups.place()[0] is None:
        pytest.skip(f"no control groups here: {cgroups.place()[1]}")
    with Sandbox(Isolation.NAMESPACES) as sandbox:
        job = {"kind": "python", "code": "import os\nopen('f', 'wb').write(bytes(10 ** 9))\nprint('written')"}
        outcome = sandbox.run(job, b"", Limits(memory_bytes=1 << 30, scratch_bytes=16 << 20))
    assert b"written" not in outcome.stdout
