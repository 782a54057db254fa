"""What hostile code may try. None of it earns reward, reaches outside, outlives its run, or stops the next one."""

import os
import secrets
import socket
import tempfile
import time
from pathlib import Path
from string import Template

import pytest

from h1r.verify.code_judge import judge
from h1r.verify.code_tests import parse_tests
from h1r.verify.sandbox import Isolation, Limits, SandboxPool, refusal

LIMITS = Limits(time_s=1.0, total_s=3.0, memory_bytes=256 << 20, scratch_bytes=4 << 20, output_bytes=1 << 20)
TOKEN = f"expected-{secrets.token_hex(16)}"
"""What a right answer would be: known to the parent alone, and not to be guessed."""

HERE = Path(__file__).parent / "attacks"


def read_attacks(name: str, snippets: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """(snippets, attacks) by name, from a file of `=== name` sections."""
    found: dict[str, list[str]] = {}
    for line in (HERE / name).read_text().splitlines():
        if line.startswith("=== "):
            found[line[4:]] = lines = []
        elif found and not line.startswith("### "):
            lines.append(line)
    texts = {name: "\n".join(lines).strip("\n") for name, lines in found.items()}
    return {key: texts.pop(key) for key in snippets}, texts


SNIPPETS, ATTACKS = read_attacks("programs.txt", ("SYSCALL", "EVERYWHERE", "FRAME", "FIND"))
RESULT_SNIPPETS, RESULTS = read_attacks("results.txt", ("TRUE_TO_ALL",))
SNIPPETS |= RESULT_SNIPPETS | {"PARENTHESES": "(" * 100_000}
SLOW = ("endless_iterator", "shared_doubling", "colliding_set", "hangs")


@pytest.fixture(scope="module", params=["NAMESPACES", "LANDLOCK"])
def pool(request):
    why = refusal(Isolation[request.param])
    if why:
        pytest.skip(why)
    with SandboxPool(level=request.param) as pool:
        yield pool


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
        places = {"secret": folder / "secret", "folder": folder, "port": port, "abstract": abstract, "pid": os.getpid()}
        before = (folder / "secret").stat()
        yield places, [*servers, datagrams], before
        for server in (*servers, datagrams):
            server.close()


def filled(text: str, places: dict) -> str:
    return Template(text).substitute(SNIPPETS, **places)


def descendants() -> list[tuple[int, str]]:
    """(pid, state and name) of every process below the keepers, which are below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = (int(tail.split()[1]), tail.split()[0] + head)
    keepers = {pid for pid, (parent, _) in parents.items() if parent == os.getpid()}
    return [(pid, what) for pid, (parent, what) in parents.items() if parent in keepers]


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
    assert descendants() == []
    with pool.lease() as slot:
        honest = judge(slot, "print(input())", "python", parse_tests([{"input": TOKEN, "output": TOKEN}]), LIMITS)
    assert honest.correct


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_program_earns_nothing_and_reaches_nothing(name, pool, outside) -> None:
    code = filled(ATTACKS[name], outside[0])
    started = time.monotonic()
    with pool.lease() as slot:
        result = judge(slot, code, "python", parse_tests([{"input": "3\n", "output": TOKEN}]), LIMITS)
    assert not result.correct
    assert result.passed == 0
    assert time.monotonic() - started < 5 * LIMITS.time_s
    check_nothing_happened(pool, outside)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_module_earns_nothing_and_reaches_nothing(name, pool, outside) -> None:
    """The attack at import, then a function that returns what the attack may have found."""
    code = filled(ATTACKS[name], outside[0]) + "\n\ndef f():\n    return (globals().get('FOUND') or ['nothing'])[0]\n"
    calls = parse_tests({"fn_name": "f", "inputs": [[], []], "outputs": [TOKEN, TOKEN]})
    checks = parse_tests([f"assert f() == {TOKEN!r}", f"assert f() == {TOKEN!r}"])
    with pool.lease() as slot:
        assert judge(slot, code, "python", calls, LIMITS).passed == 0
        assert judge(slot, code, "python", checks, LIMITS).passed == 0
    check_nothing_happened(pool, outside)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_made_to_fool_a_comparison_does_not(name, pool, outside) -> None:
    calls = parse_tests({"fn_name": "f", "inputs": [[]], "outputs": ['"right"']})
    asserts = ["f() == 'right'", "f() == 3", "abs(f() - 3) < 1e-6", "f() != f()", "'right' in f()", "f() in ['right']",
               "set(f()) == {'right'}", "f() == [1, 2]", "f() > 3", "f()['key'] == 1", "not f()"]  # fmt: skip
    code = filled(RESULTS[name], outside[0])
    fooled = {"not_a_number": ["f() != f()"], "none": ["not f()"]}
    with pool.lease() as slot:
        assert judge(slot, code, "python", calls, LIMITS).passed == 0
        for condition in asserts[: 1 if name in SLOW else None]:
            tests = parse_tests([f"assert {condition}"])
            expected = condition in fooled.get(name, [])
            assert judge(slot, code, "python", tests, LIMITS).correct is expected, condition
    check_nothing_happened(pool, outside)
