"""The sandbox itself: what one run leaves for the next, what happens when a part dies, how a level is chosen."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from h1r.errors import UserError
from h1r.sandbox import (
    Isolation,
    Limits,
    Sandbox,
    SandboxError,
    SandboxPool,
    choose_level,
    levels,
    refusal,
    runner,
)
from h1r.verify.code.execute import judge
from h1r.verify.code.problem_tests import StdinTests
from machine import bound

LEVELS = [Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK]
ECHO = "print(input())"


@pytest.fixture(scope="module", params=LEVELS, ids=lambda level: level.name)
def sandbox(request):
    if why := refusal(request.param):
        pytest.skip(why)
    with Sandbox(request.param) as sandbox:
        yield sandbox


def run(sandbox: Sandbox, code: str, stdin: bytes = b"", **limits) -> tuple[int, str]:
    outcome = sandbox.run({"kind": "python", "code": code}, stdin, Limits(**limits))
    return outcome.status, outcome.stdout.decode()


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_a_program_has_its_input_its_output_and_its_exit_status(sandbox):
    code = "import sys\nprint(sys.stdin.read()[::-1])\nsys.stderr.write('e')\nsys.exit(3)"
    outcome = sandbox.run({"kind": "python", "code": code}, b"abc")
    assert (outcome.ending, outcome.status, outcome.stdout, outcome.stderr) == ("finished", 3, b"cba\n", b"e")
    assert 0 < outcome.seconds < 6
    assert outcome.memory > 0


def test_exit_and_quit_are_there_as_in_any_program(sandbox):
    assert run(sandbox, "print(1); exit()") == (0, "1\n")
    assert run(sandbox, "print(1); quit(2)") == (2, "1\n")


def test_one_run_leaves_nothing_for_the_next(sandbox):
    spoil = (
        "import builtins, math, os, random, sys\nopen('left', 'w').write('x') if os.access('.', os.W_OK) else None\n"
    )
    spoil += "builtins.print = None; math.pi = 3; sys.path.clear(); os.environ['LEFT'] = '1'; random.seed(0)"
    run(sandbox, spoil)
    look = "import math, os, sys\nprint(os.path.exists('left'), math.pi > 3, len(sys.path) > 0, 'LEFT' in os.environ)"
    assert run(sandbox, look) == (0, "False True True False\n")


def test_two_runs_draw_different_random_numbers(sandbox):
    assert run(sandbox, "import random; print(random.random())") != run(
        sandbox, "import random; print(random.random())"
    )


def test_tested_code_may_use_installed_packages_and_threads(sandbox):
    code = "import numpy, threading\nt = threading.Thread(target=lambda: print(int(numpy.arange(4).sum())))\n"
    assert run(sandbox, code + "t.start(); t.join()") == (0, "6\n")


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_packages_below_tmp_are_not_hidden_by_the_scratch_folder(level, monkeypatch):
    if why := refusal(level):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        Path(folder, "module.py").write_text("VALUE = 7")
        readable = [*runner.readable_paths(), folder]
        monkeypatch.setattr(runner, "readable_paths", lambda: readable)
        with Sandbox(level) as sandbox:
            code = f"import sys; sys.path.append({folder!r}); import module; print(module.VALUE)"
            assert run(sandbox, code) == (0, "7\n")


def test_text_that_is_no_unicode_passes_through(sandbox):
    outcome = sandbox.run({"kind": "python", "code": "print(input())"}, b"\xff\xfe\x80\n")
    assert outcome.stdout == b"\xff\xfe\x80\n"


def test_deep_recursion_within_the_limits_is_no_failure(sandbox):
    assert run(sandbox, "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000))") == (0, "20000\n")


def test_files_may_be_written_only_where_they_are_bounded_together(sandbox):
    status, _ = run(sandbox, "open('f', 'w').write('x')")
    assert (status == 0) is (sandbox.level >= Isolation.BUBBLEWRAP)


def test_files_are_removed_however_deep_and_whatever_their_rights():
    """As another user than root, whom rights do not stop."""
    script = """
import os, sys
from h1r.sandbox.fork_server import remove_tree
if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)
top = sys.argv[1]
os.mkdir(top)
os.chdir(top)
open('file', 'w').close()
os.symlink('/etc', 'link')
for name, mode in (('shut', 0), ('shallow', 0o700), ('shallow/shut', 0)):
    os.mkdir(name, mode)
for _ in range(3000):
    os.mkdir('d')
    os.chdir('d')
open('file', 'w').close()
os.chdir('/')
remove_tree(top)
print(os.path.exists(top), os.path.exists('/etc'))
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        run = subprocess.run(
            [sys.executable, "-c", script, f"{folder}/top"], capture_output=True, text=True, check=False
        )
    assert run.stdout == "False True\n", run.stderr


def test_a_killed_fork_server_is_replaced(sandbox):
    run(sandbox, ECHO, b"1")
    os.kill(sandbox._fork_server.pid, signal.SIGKILL)
    time.sleep(0.3)  # inside bubblewrap the fork server ends after the process that is killed here
    assert run(sandbox, ECHO, b"2") == (0, "2\n")


def test_a_fork_server_that_dies_under_a_run_costs_that_run_and_no_other(sandbox):
    run(sandbox, ECHO, b"1")
    fork_server = sandbox._fork_server.pid
    threading.Timer(0.3, os.kill, (fork_server, signal.SIGKILL)).start()
    outcome = sandbox.run({"kind": "python", "code": "import time; time.sleep(5); print(1)"}, b"", Limits(time_s=4.0))
    assert outcome.ending == "failed"
    assert run(sandbox, ECHO, b"2") == (0, "2\n")


def test_closing_ends_every_process(sandbox):
    run(sandbox, ECHO, b"1")
    fork_server = sandbox._fork_server.pid
    sandbox.close()
    assert not Path(f"/proc/{fork_server}").exists()
    assert run(sandbox, ECHO, b"2") == (0, "2\n")


def test_the_fork_server_and_its_run_end_with_a_killed_parent(sandbox, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import threading, time\n"
        "from h1r.sandbox import Isolation, Limits, Sandbox\n"
        f"sandbox = Sandbox(Isolation({int(sandbox.level)}))\n"
        "job = {'kind': 'python', 'code': 'while True: pass'}\n"
        "threading.Thread(target=lambda: sandbox.run(job, b'', Limits(time_s=60)), daemon=True).start()\n"
        "while sandbox._fork_server is None: time.sleep(0.01)\n"
        "time.sleep(1.5)\n"
        "print(sandbox._fork_server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    fork_server = int(parent.stdout.readline())
    runs = children(fork_server)
    assert runs, "the run has begun"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_runs(pid) for pid in (fork_server, *runs)):
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in (fork_server, *runs))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_crash_starts_no_handler_of_the_hosts(sandbox):
    """A core size of 0 does not keep the kernel from piping an image to a program of the host's; 1 does."""
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    allowed = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    assert run(sandbox, code) == (0, f"({allowed}, {allowed})\n")


def test_a_forked_process_does_not_share_the_sandbox(sandbox):
    run(sandbox, ECHO, b"1")
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.run({"kind": "python", "code": ECHO}, b"1")
        except SandboxError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert run(sandbox, ECHO, b"2") == (0, "2\n")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_system_calls_of_another_abi_do_not_pass_the_filter(level):
    """A filter that knows 64-bit numbers only would let a 32-bit `socketcall` or an x32 `socket` through."""
    if os.uname().machine != "x86_64" or refusal(level):
        pytest.skip("needs x86-64 and the level")
    socket_32 = 'int r; asm volatile("int $0x80" : "=a"(r) : "a"(359), "b"(2), "c"(1), "d"(0));'
    socket_x32 = 'long r; asm volatile("syscall" : "=a"(r) : "a"(0x40000029), "D"(2), "S"(1), "d"(0) : "rcx", "r11");'
    with SandboxPool(level=level.name) as pool, pool.lease() as slot:
        for body in (socket_32, socket_x32):
            code = "#include <cstdio>\nint main() { " + body + ' if (r >= 0) puts("open"); }'
            with slot.program(code, "cpp", Limits()) as program:
                outcome = program.run(b"", Limits())
            assert b"open" not in outcome.stdout
            assert outcome.status == -signal.SIGSYS


def test_a_pool_runs_as_many_at_once_as_it_has_slots():
    tests = StdinTests([("1", "1")])
    code = "import time; time.sleep(0.5); print(input())"
    with SandboxPool(4) as pool:
        results = []

        def one() -> None:
            with pool.lease() as slot:
                results.append(judge(slot, code, "python", tests, Limits()).correct)

        for warm in (True, False):
            start = time.monotonic()
            threads = [threading.Thread(target=one) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if not warm:
                assert time.monotonic() - start < bound(4 * 0.5)
        assert results == [True] * 8


def test_hostile_code_in_one_slot_costs_the_others_nothing():
    hostile = ["import os\nwhile True: os.kill(-1, 9)", "x = []\nwhile True: x.append(bytearray(1 << 24))",
               "while True: print('x' * 10 ** 6)", "import os; os.closerange(0, 99); os.abort()"]  # fmt: skip
    limits = Limits(time_s=1.0, memory_bytes=256 << 20)
    with SandboxPool(2) as pool:
        stop, wrong = threading.Event(), []

        def attack() -> None:
            while not stop.is_set():
                for code in hostile:
                    with pool.lease() as slot:
                        if judge(slot, code, "python", StdinTests([("1", "1")]), limits).correct:
                            wrong.append(code)

        attacker = threading.Thread(target=attack)
        attacker.start()
        honest = []
        for number in range(20):
            with pool.lease() as slot:
                honest.append(judge(slot, ECHO, "python", StdinTests([(str(number), str(number))]), Limits()).correct)
        stop.set()
        attacker.join()
    assert honest == [True] * 20
    assert wrong == []


def test_rlimits_alone_are_never_chosen_unasked(monkeypatch):
    monkeypatch.delenv("H1R_SANDBOX", raising=False)
    monkeypatch.setattr(levels, "refusal", lambda level: None if level == Isolation.RLIMITS else "not here")
    with pytest.raises(UserError, match="H1R_SANDBOX=rlimits"):
        choose_level()
    assert choose_level("rlimits") == Isolation.RLIMITS
    monkeypatch.setenv("H1R_SANDBOX", "rlimits")
    assert choose_level() == Isolation.RLIMITS


def test_a_level_that_is_asked_for_and_refused_is_no_other_level(monkeypatch):
    monkeypatch.setattr(levels, "refusal", lambda level: "not here" if level == Isolation.NAMESPACES else None)
    assert choose_level("auto") == Isolation.BUBBLEWRAP
    assert choose_level("landlock") == Isolation.LANDLOCK
    with pytest.raises(UserError, match="namespaces: not here"):
        choose_level("namespaces")
    with pytest.raises(UserError, match="no isolation level"):
        choose_level("docker")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user stays who it is")
@pytest.mark.parametrize("level", [Isolation.NAMESPACES, Isolation.LANDLOCK, Isolation.RLIMITS], ids=lambda it: it.name)
def test_tested_code_of_root_is_a_user_of_its_own_with_its_own_count_of_threads(level):
    if why := refusal(level):
        pytest.skip(why)
    code = """
import os, threading, time
threading.stack_size(1 << 16)
started = 0
try:
    while started < 1000:
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
        started += 1
except RuntimeError:
    pass
print(*os.getresuid(), *os.getresgid(), started, flush=True)
os._exit(0)
"""
    users = set()
    for _ in range(2):
        with Sandbox(level) as sandbox:
            status, out = run(sandbox, code)
        *ids, started = map(int, out.split())
        assert (status, len(set(ids))) == (0, 1)
        assert ids[0] >= 1000
        assert started <= 64
        users.add(ids[0])
    assert len(users) == (1 if level == Isolation.NAMESPACES else 2)


def test_a_level_is_believed_only_after_an_attempt_to_break_out(monkeypatch):
    """The probe itself: at the level that confines least it gets out, and that is noticed."""
    assert refusal(Isolation.RLIMITS) is None
    monkeypatch.setattr(levels, "Sandbox", lambda level: Sandbox(Isolation.RLIMITS))
    why = levels.refusal.__wrapped__(Isolation.LANDLOCK)
    assert why is not None
    assert "read" in why


@pytest.mark.parametrize(
    "attack",
    [
        "os.truncate(victim, 0)",
        "os.open(victim, os.O_RDONLY | os.O_TRUNC)",
        "os.unlink(victim)",
        "os.rename(victim, victim + '2')",
        "os.symlink(victim, victim + '2')",
        "os.mkdir(victim + '2')",
    ],
)
def test_the_weakest_level_changes_no_file(attack):
    """Limits on the size of files say nothing of this, and file rules of before 2022 little of the first two."""
    if why := refusal(Isolation.RLIMITS):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        victim = Path(folder) / "victim"
        victim.write_text("content")
        victim.chmod(0o666)
        code = f"import os\nvictim = {str(victim)!r}\n{attack}\nprint('reached')"
        with Sandbox(Isolation.RLIMITS) as sandbox:
            outcome = sandbox.run({"kind": "python", "code": code})
        assert b"reached" not in outcome.stdout
        assert b"Error" in outcome.stderr
        assert (victim.read_text(), os.listdir(folder)) == ("content", ["victim"])


def test_the_command_says_what_is_in_force():
    run = subprocess.run([sys.executable, "-m", "h1r.sandbox"], capture_output=True, text=True, check=False)
    report = json.loads(run.stdout)
    assert report["in force"] == choose_level().name.lower()
    assert report["rlimits"] == "works"
