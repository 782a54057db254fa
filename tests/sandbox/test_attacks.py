"""What hostile code may try. None of it earns reward, reaches outside, outlives its run, or stops the next one."""

import contextlib
import dataclasses
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from string import Template

import pytest

from h1r.sandbox import Isolation, Limits, SandboxPool, builds, refusal, toolchains
from h1r.verify.code.execute import judge
from h1r.verify.code.problem_tests import parse_tests

LIMITS = Limits(time_s=0.5, total_s=1.5, memory_bytes=256 << 20, scratch_bytes=4 << 20, output_bytes=1 << 20)
TOKEN = f"expected-{secrets.token_hex(16)}"
"""What a right answer would be: known to the parent alone, and not to be guessed."""
HERE = Path(__file__).parent / "attacks"
REACHING = ("network", "other processes", "rights", "writes outside")
"""Groups whose programs end with status 0 if they reach what they are after."""
SNIPPET_NAMES = ("SYSCALL", "EVERYWHERE", "FRAME", "FIND", "TRUE_TO_ALL")


def read_attacks(name: str) -> dict[str, tuple[str, str]]:
    """Name -> (group, program), from a file of `=== name` sections in `### group`s."""
    found: dict[str, tuple[str, list[str]]] = {}
    group = ""
    lines: list[str] = []
    for line in (HERE / name).read_text().splitlines():
        if line.startswith("### "):
            group = line[4:]
        elif line.startswith("=== "):
            found[line[4:]] = group, (lines := [])
        else:
            lines.append(line)
    return {name: (group, "\n".join(lines).strip("\n")) for name, (group, lines) in found.items()}


ATTACKS, RESULTS = read_attacks("programs.txt"), read_attacks("results.txt")
COMPILERS = read_attacks("compilers.txt")
SNIPPETS = {name: source.pop(name)[1] for source in (ATTACKS, RESULTS) for name in SNIPPET_NAMES if name in source}
SNIPPETS["PARENTHESES"] = "(" * 100_000
LEVELS = ("NAMESPACES", "BUBBLEWRAP", "LANDLOCK")
LINGER_S = 30.0
"""What was killed may be on its way out, and what an earlier file of this process started may come and go."""
ENDS_S = 60.0
"""A limit holds on an idle machine after two seconds; without one, these programs run for ever."""
ENDLESS = ("endless_iterator", "shared_doubling", "colliding_set", "hangs", "slow_conversions_of_an_object",
           "generator_that_trickles", "slow_equality_in_a_set")  # fmt: skip


@pytest.fixture(scope="module")
def pools():
    """A pool per level that this machine gives."""
    with contextlib.ExitStack() as stack:
        names = [name for name in LEVELS if refusal(Isolation[name]) is None]
        yield {name: stack.enter_context(SandboxPool(level=name)) for name in names}


@pytest.fixture
def pool(request, pools):
    if request.param not in pools:
        pytest.skip(str(refusal(Isolation[request.param])))
    return pools[request.param]


def at_levels(*default: str):
    """Parametrizes `pool`: these levels in every run of the tests, the others with the slow ones."""
    return pytest.mark.parametrize(
        "pool",
        [pytest.param(name, marks=[] if name in default else [pytest.mark.slow]) for name in LEVELS],
        indirect=True,
    )


@pytest.fixture(scope="module")
def outside():
    """A folder with a secret, and servers on every kind of socket: none may notice anything."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").write_text(TOKEN)
        servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        port = servers[0].getsockname()[1]
        abstract = f"h1r-{secrets.token_hex(8)}"
        servers[1].bind(str(folder / "socket"))
        servers[2].bind(f"\0{abstract}")
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", port))
        for server in servers[1:]:
            server.listen()
        places = {
            "secret": folder / "secret",
            "folder": folder,
            "port": port,
            "abstract": abstract,
            "pid": os.getpid(),
            "walked": "/tmp",
        }
        before = (folder / "secret").stat()
        yield places, [*servers, datagrams], before
        for server in (*servers, datagrams):
            server.close()


def filled(text: str, places: dict) -> str:
    return Template(text).substitute(SNIPPETS, **places)


def descendants() -> list[tuple[int, str]]:
    """(pid, state and name) of every process below the fork servers, which are below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = (int(tail.split()[1]), tail.split()[0] + head)
    servers = {pid for pid, (parent, _) in parents.items() if parent == os.getpid()}
    for _ in range(2):  # bubblewrap stands before the fork server twice: outside, and as process 1 inside
        servers |= {pid for pid, (parent, _) in parents.items() if parent in servers and "(bwrap" in parents[parent][1]}
    return [(pid, what) for pid, (parent, what) in parents.items() if parent in servers and pid not in servers]


def check_nothing_happened(pool, outside) -> None:
    places, servers, before = outside
    after = places["secret"].stat()
    assert places["secret"].read_text() == TOKEN
    assert (after.st_mode, after.st_mtime, after.st_nlink) == (before.st_mode, before.st_mtime, before.st_nlink)
    assert sorted(path.name for path in places["folder"].iterdir()) == ["secret", "socket"]
    assert not Path("/dev/shm/h1r-attack").exists()
    for server in servers:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1) if server.type == socket.SOCK_DGRAM else server.accept()
    until = time.monotonic() + LINGER_S
    while (alive := descendants()) and time.monotonic() < until:
        time.sleep(0.02)
    assert alive == []
    with pool.lease() as slot:
        honest = judge(slot, "print(input())", "python", parse_tests([{"input": TOKEN, "output": TOKEN}]), Limits())
    assert honest.correct


@pytest.mark.parametrize("name", ATTACKS)
@at_levels("NAMESPACES", "LANDLOCK")
def test_a_hostile_program_earns_nothing_and_reaches_nothing(name, pool, outside) -> None:
    group, attack = ATTACKS[name]
    code = filled(attack, outside[0])
    started = time.monotonic()
    with pool.lease() as slot:
        if group in REACHING:
            with slot.program(code, "python", LIMITS) as program:
                outcome = program.run(b"3\n", LIMITS)
            assert (outcome.ending, outcome.status) != ("finished", 0), outcome
            assert TOKEN.encode() not in outcome.stdout
        else:
            result = judge(slot, code, "python", parse_tests([{"input": "3\n", "output": TOKEN}]), LIMITS)
            assert (result.correct, result.passed) == (False, 0)
    assert time.monotonic() - started < ENDS_S
    check_nothing_happened(pool, outside)


RETURN_WHAT_WAS_FOUND = "\n\ndef f():\n    return (globals().get('FOUND') or ['nothing'])[0]\n"


@pytest.mark.parametrize("name", ATTACKS)
@at_levels("NAMESPACES")
def test_a_hostile_module_earns_nothing_from_calls(name, pool, outside) -> None:
    """The attack at import, then a function that returns what the attack may have found."""
    code = filled(ATTACKS[name][1], outside[0]) + RETURN_WHAT_WAS_FOUND
    calls = parse_tests({"fn_name": "f", "inputs": [[], []], "outputs": [TOKEN, TOKEN]})
    with pool.lease() as slot:
        assert judge(slot, code, "python", calls, LIMITS).passed == 0
    check_nothing_happened(pool, outside)


@pytest.mark.slow  # twice the processes of the test above, whose tested side is the same
@pytest.mark.parametrize("name", ATTACKS)
@at_levels(*LEVELS)
def test_a_hostile_module_earns_nothing_from_assertions(name, pool, outside) -> None:
    code = filled(ATTACKS[name][1], outside[0]) + RETURN_WHAT_WAS_FOUND
    checks = parse_tests([f"assert f() == {TOKEN!r}", f"assert f() == {TOKEN!r}"])
    with pool.lease() as slot:
        assert judge(slot, code, "python", checks, LIMITS).passed == 0
    check_nothing_happened(pool, outside)


CONDITIONS = ["f() == 'right'", "f() == 3", "abs(f() - 3) < 1e-6", "f() != f()", "'right' in f()", "f() in ['right']",
              "set(f()) == {'right'}", "f() == [1, 2]", "f() > 3", "f()['key'] == 1", "not f()"]  # fmt: skip
TRUE_OF = {"not_a_number": ["f() != f()"], "none": ["not f()"], "decimal_of_all_digits": ["f() > 3"]}


@pytest.mark.parametrize("name", RESULTS)
@at_levels("NAMESPACES")
def test_a_result_made_to_fool_a_comparison_does_not(name, pool, outside) -> None:
    code = filled(RESULTS[name][1], outside[0])
    calls = parse_tests({"fn_name": "f", "inputs": [[]], "outputs": ['"right"']})
    conditions = CONDITIONS[: 1 if name in ENDLESS else None]
    checks = parse_tests([f"assert {condition}" for condition in conditions])
    limits = dataclasses.replace(LIMITS, total_s=10.0)
    with pool.lease() as slot:
        assert judge(slot, code, "python", calls, LIMITS).passed == 0
        failed = {failure.number for failure in judge(slot, code, "python", checks, limits, stop=False).failures}
    passed = [condition for number, condition in enumerate(conditions) if number not in failed]
    assert passed == TRUE_OF.get(name, [])
    check_nothing_happened(pool, outside)


@pytest.mark.skipif(toolchains.executable("cpp") is None, reason="no g++")
@pytest.mark.parametrize("name", COMPILERS)
@at_levels("NAMESPACES")
def test_a_hostile_source_earns_nothing_from_its_compiler(name, pool, outside, monkeypatch) -> None:
    code = filled(COMPILERS[name][1], outside[0])
    monkeypatch.setattr(builds, "COMPILE_LIMITS", dataclasses.replace(builds.COMPILE_LIMITS, time_s=2.0, total_s=2.0))
    started = time.monotonic()
    with pool.lease() as slot:
        result = judge(slot, code, "cpp", parse_tests([{"input": "3\n", "output": TOKEN}]), LIMITS)
    assert (result.correct, result.passed) == (False, 0)
    assert time.monotonic() - started < ENDS_S
    check_nothing_happened(pool, outside)


def test_the_attacks_would_succeed_if_nothing_confined_them(outside) -> None:
    """A test that nothing can fail proves nothing: unconfined, these find the secret, write, and reach a server."""
    hits = {}
    for name in ("read_the_tests", "symlink_to_the_tests", "walk_for_the_tests", "tcp", "udp", "abstract_socket",
                 "unix_socket", "shared_memory", "io_uring", "system_files", "rename_outside"):  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            secret = Path(folder) / "secret"
            secret.write_text(TOKEN)
            places = {**outside[0], "secret": secret, "folder": Path(folder), "walked": folder}
            if name == "unix_socket":
                places["folder"] = outside[0]["folder"]
            run = subprocess.run([sys.executable, "-c", filled(ATTACKS[name][1], places)], cwd=folder, timeout=60,
                                 capture_output=True, text=True, check=False)  # fmt: skip
            hits[name] = run.returncode == 0 or TOKEN in run.stdout
    assert sum(hits.values()) >= len(hits) - 2, hits  # io_uring and shared memory may be off on a machine
    for server in outside[1]:
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            server.recv(1) if server.type == socket.SOCK_DGRAM else server.accept()[0].close()
