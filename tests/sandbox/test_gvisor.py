"""gVisor's level against a stand-in for `runsc` that starts what a container's description says and confines nothing.

What this cannot show is gVisor itself: that the options are those of a real `runsc`, and what it keeps out.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from h1r.errors import UserError
from h1r.sandbox import Isolation, Limits, SandboxError, choose_level, gvisor, levels, meter, refusal, toolchains
from h1r.sandbox.gvisor import GvisorSandbox
from h1r.sandbox.pool import LocalSlot
from h1r.verify.code.execute import judge
from h1r.verify.code.problem_tests import parse_tests
from machine import bound

STAND_IN = """#!{python} -IS
import json, os, sys, tempfile
words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(words) + "\\n")
if "run" not in words:
    sys.exit(0)
with open(words[words.index("--bundle") + 1] + "/config.json") as handle:
    process = json.load(handle)["process"]
host, _, guest = words[words.index("--pass-fd") + 1].partition(":")
os.dup2(int(host), int(guest))
scratch = tempfile.mkdtemp()
args = [word.replace("/scratch", scratch) for word in process["args"]]
os.chdir(scratch)
os.execve(args[0], args, dict(line.split("=", 1) for line in process["env"]))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    program, log = tmp_path / "bin/runsc", tmp_path / "log"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setattr(gvisor.shutil, "which", lambda name: str(program) if name == "runsc" else None)
    return log


@pytest.fixture
def slot(stand_in):
    slot = LocalSlot(Isolation.GVISOR)
    yield slot
    slot.close()


def test_programs_calls_and_checks_run_in_containers(slot, stand_in):
    stdin = parse_tests([{"input": "3", "output": "6"}])
    assert judge(slot, "print(2 * int(input()))", "python", stdin).failures == []
    assert judge(slot, "print(2 * int(open('/dev/stdin').read()))", "python", stdin).failures == []
    calls = parse_tests({"fn_name": "f", "inputs": [[3], [4]], "outputs": [6, 8]})
    assert judge(slot, "def f(x): return 2 * x", "python", calls).failures == []
    assert judge(slot, "def f(x): return 2 * x", "python", parse_tests(["assert f(3) == 6"])).failures == []
    words = [json.loads(line) for line in stand_in.read_text().splitlines()]
    started = [line for line in words if "run" in line]
    assert len({line[-1] for line in started}) == len(started) == 5
    assert all("--network=none" in line for line in started)


def test_a_holder_is_ended_with_its_container(slot, stand_in, monkeypatch):
    monkeypatch.setattr(meter, "waited_s", lambda pid, several: 0.0)  # however busy the machine is
    tests = parse_tests([{"input": "3", "output": "6"}])
    assert judge(slot, "while True: pass", "python", tests, Limits(time_s=0.5)).failures[0].reason == "time"
    began = time.monotonic()
    limits = Limits(time_s=400.0, total_s=900.0, answer_s=1.0)
    held = judge(slot, "import time; time.sleep(1000)", "python", tests, limits)
    assert held.failures == [(0, "the whole answer exceeds 1 s", "time")]
    assert time.monotonic() - began < bound(30.0)
    assert any("delete" in line for line in map(json.loads, stand_in.read_text().splitlines()))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_compiled_program_is_a_file_of_its_container(slot, monkeypatch):
    monkeypatch.setattr(toolchains, "executable", lambda language: "/usr/bin/gcc")
    code = '#include <stdio.h>\nint main(void) { int x; scanf("%d", &x); printf("%d", 2 * x); }'
    assert judge(slot, code, "c", parse_tests([{"input": "3", "output": "6"}])).failures == []


def test_a_container_sees_what_it_needs_and_no_more(tmp_path):
    readable = tmp_path / "readable"
    readable.mkdir()
    link = tmp_path / "link"
    link.symlink_to("readable")
    folder = tmp_path / "bundle"
    folder.mkdir()
    gvisor.describe(folder, Limits(scratch_bytes=4 << 20), lambda: [str(readable), str(link)])
    description = json.loads((folder / "config.json").read_text())
    mounts = {mount["destination"]: mount for mount in description["mounts"]}
    assert set(mounts) == {"/proc", "/scratch", str(readable), str(Path(gvisor.__file__).parent)}
    assert all("ro" in mount["options"] for mount in mounts.values() if mount["type"] == "bind")
    assert "size=4194304" in mounts["/scratch"]["options"]
    assert (folder / "root" / str(link).lstrip("/")).readlink() == Path("readable")
    assert description["root"]["readonly"]
    assert description["process"]["noNewPrivileges"]
    assert not any(description["process"]["capabilities"].values())


def test_a_runsc_that_confines_nothing_is_not_believed(stand_in):
    why = levels.refusal.__wrapped__(Isolation.GVISOR)
    assert why is not None
    assert "read" in why


def test_without_runsc_the_level_is_refused_and_never_chosen_by_itself(monkeypatch):
    monkeypatch.setattr(gvisor.shutil, "which", lambda name: None)
    with GvisorSandbox() as sandbox, pytest.raises(SandboxError, match="no `runsc`"):
        sandbox.run({"kind": "python", "code": ""})
    monkeypatch.setattr(levels, "refusal", lambda level: "not here" if level == Isolation.GVISOR else None)
    assert choose_level("auto") != Isolation.GVISOR
    with pytest.raises(UserError, match="gvisor: not here"):
        choose_level("gvisor")


@pytest.mark.skipif(shutil.which("runsc") is None, reason="no runsc")
def test_the_real_one_works():
    assert refusal(Isolation.GVISOR) is None
