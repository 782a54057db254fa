"""A Ray cluster that is started here is reached from this machine only, and only with its token."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from h1r.errors import UserError
from h1r.verify.workers import ray_cluster

pytest.importorskip("ray")

STARTS = """
import os, sys
from h1r.verify.workers.ray_cluster import RayCluster
cluster = RayCluster(num_cpus=1, object_store_memory=80 << 20)
print(cluster.address, os.environ["RAY_AUTH_TOKEN"], os.getpid(), flush=True)
sys.stdin.read()
cluster.leave()
assert not cluster.ray.is_initialized()
"""
JOINS = """
import sys
from h1r.verify.workers.ray_cluster import RayCluster
cluster = RayCluster(sys.argv[1])
print("joined", cluster.ray.get(cluster.ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.parametrize("said", ["The current node timed out during startup. This could happen", "a fault of ours"])
def test_a_cluster_that_does_not_start_in_time_is_one_sentence(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Ray, which raises no kind of error of its own there."""
    fake: Any = ModuleType("ray")
    fake.exceptions = ModuleType("ray.exceptions")
    fake.exceptions.RayError = RuntimeError
    fake.is_initialized = lambda: False
    ended: list[bool] = []
    fake.shutdown = lambda: ended.append(True)

    def init(**_: Any) -> None:
        raise Exception(said)

    fake.init = init
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", fake.exceptions)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    kind, match = (Exception, said) if "ours" in said else (UserError, "run the command again when the machine")
    with pytest.raises(kind, match=match):
        ray_cluster.RayCluster()
    assert ended == ([] if "ours" in said else [True])


def outsider(**added: str) -> dict[str, str]:
    """The environment of a process that this cluster's starter did not start, with nothing of another test's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | added


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, str, int]]:
    """Address, token and starter of a cluster."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", STARTS], stdin=pipe, stdout=pipe, text=True, env=outsider()) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        address, token, pid = child.stdout.readline().split()
        yield address, token, int(pid)
        child.stdin.close()
    assert child.returncode == 0


def client(address: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    """A process that tries to join from this machine."""
    return subprocess.Popen(
        [sys.executable, "-c", JOINS, address],
        env=outsider(HOME=str(home), **ray_cluster._LOOPBACK, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_client_with_the_token_is_served(cluster, tmp_path):
    address, token, _ = cluster
    said, _ = client(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token).communicate(timeout=120)
    assert "joined 42" in said


@pytest.mark.slow  # Ray tries again for 20 seconds
def test_a_client_without_the_token_is_refused(cluster, tmp_path):
    none = client(cluster[0], tmp_path)
    wrong = client(cluster[0], tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64)
    for said in (none.communicate(timeout=120)[0], wrong.communicate(timeout=120)[0]):
        assert "joined 42" not in said
        assert "AuthenticationError" in said
        assert "UserError: no Ray cluster can be joined at 127.0.0.1" in said


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads listening sockets from /proc")
def test_it_listens_on_the_loopback_interface_only(cluster):
    addresses = [address for pid in family(cluster[2]) for address in listening(pid)]
    assert len(addresses) > 3
    assert {address for address in addresses if not is_loopback(address)} == set()


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(one for path in children for child in path.read_text().split() for one in family(int(child)))]


def listening(pid: int) -> list[str]:
    """Addresses, in the kernel's hexadecimal, of the sockets on which a process listens."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].partition(":")[0])
    return found


def is_loopback(address: str) -> bool:
    """127.0.0.1, ::1, or the former as an address of version 6; words of four bytes, the lowest first."""
    return address in ("0100007F", "0" * 24 + "01000000", "0" * 16 + "FFFF0000" + "0100007F")


def test_what_the_environment_says_of_the_token_stays(monkeypatch):
    monkeypatch.setattr(os, "environ", outsider(RAY_AUTH_TOKEN_PATH="/a/file"))
    ray_cluster._protect()
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.environ["RAY_AUTH_MODE"] == "token"
