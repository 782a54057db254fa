"""Threads of OpenMP spin on a machine of their own and sleep beside neighbours, by what was measured as they ran."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import h1r
from h1r.common import thread_waits
from h1r.common.thread_waits import CALM_LOOKS, Waits, loaded_libgomp, times_of_threads
from h1r.kernels import selection

LIBGOMP = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
MS = 1_000_000
PROGRAM = """
import ctypes, json, sys, time
from h1r.common.thread_waits import Watch

watch = Watch(sys.argv[1])
nothing = ctypes.cast(watch._library.omp_get_thread_num, ctypes.c_void_p)

def spent():
    before = time.process_time()
    for _ in range(100):
        watch._library.GOMP_parallel(nothing, None, 2, 0)
        time.sleep(0.002)
    return time.process_time() - before

found = [spent()]
for asleep in (True, False):
    watch._hold(asleep)
    time.sleep(0.05)
    found.append(spent())
print(json.dumps(found))
"""


def looks(*shares: float, asleep: bool = False, turns: int = 0) -> list[bool]:
    """What `Waits` says after looks at two threads that could have run for 100 ms each, of which a share was waited, in
    so many turns."""
    waits, times = Waits(asleep), {"1": (0, 0, 0), "2": (0, 0, 0)}
    waits.look(times)
    found = []
    for share in shares:
        waited = int(100 * MS * share)
        times = {name: (ran + 100 * MS - waited, late + waited, n + turns) for name, (ran, late, n) in times.items()}
        found.append(waits.look(times))
    return found


def test_threads_sleep_at_once_and_spin_again_after_a_calm_time() -> None:
    assert looks(0.0, 0.02, 0.3) == [False, False, True]
    calm = [0.0] * CALM_LOOKS
    assert looks(0.3, *calm) == [True] * CALM_LOOKS + [False]
    assert looks(0.3, *calm[1:], 0.02, *calm)[-2:] == [True, False]
    assert looks(*calm, asleep=True)[-2:] == [True, False]


def test_what_a_thread_waits_when_it_is_woken_is_nobodys_neighbour() -> None:
    """Measured on an idle machine: 1,200 turns a second and thread, 21 microseconds waited before each."""
    assert looks(*[0.04] * CALM_LOOKS, asleep=True, turns=150)[-1] is False
    assert looks(*[0.04] * CALM_LOOKS, asleep=True, turns=10)[-1] is True
    assert looks(0.3, turns=150) == [True]


def test_a_process_that_hardly_ran_and_threads_that_are_new_tell_nothing() -> None:
    waits = Waits(asleep=False)
    waits.look({"1": (0, 0, 0)})
    assert not waits.look({"1": (1 * MS, 9 * MS, 0)})
    assert not waits.look({"1": (100 * MS, 9 * MS, 0), "new": (0, 900 * MS, 0)})
    assert waits.look({"1": (200 * MS, 9 * MS, 0), "new": (1 * MS, 1900 * MS, 0)})


def test_torchs_own_libgomp_is_taken_where_there_are_several() -> None:
    line = "7f00-7f01 r-xp 00000000 fe:00 12 {}\n"
    files = ("/usr/lib/libgomp.so.1.0.0", "/venv/my torch/torch/lib/libgomp-98b21ff3.so.1", "/a/libtorch.so")
    assert loaded_libgomp("".join(map(line.format, files))) == files[1]
    assert loaded_libgomp(line.format(files[0])) == files[0]
    assert loaded_libgomp(line.format(files[2]) + "7f00-7f01 rw-p 00000000 00:00 0\n") is None


@pytest.mark.skipif(not LIBGOMP.exists(), reason="this torch has no libgomp")
def test_parked_threads_have_the_others_sleep_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that have nothing to do for 2 ms: spinning they use a core, asleep next to none. libgomp's default is
    said, or `import h1r` would have them sleep on a busy machine."""
    for name in h1r.WAITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "300000")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(LIBGOMP)], capture_output=True, text=True, check=True)
    spinning, sleeping, again = json.loads(done.stdout)
    assert sleeping < spinning / 2
    assert sleeping < again / 2


def test_the_times_of_threads_are_this_processs() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("the system does not tell how long threads waited")
    before = sum(ran for ran, *_ in times_of_threads().values())
    sum(range(3_000_000))
    assert sum(ran for ran, *_ in times_of_threads().values()) > before


AT_START = """
import json, os, sys
busy, seen = json.loads(sys.argv[1])
os.getloadavg = lambda: (os.cpu_count() * (0.9 if busy else 0.1), 0, 0)
exists = os.path.exists
os.path.exists = lambda path: seen if path == "/proc/self/schedstat" else exists(path)
import h1r
first = os.environ.get("OMP_WAIT_POLICY")
from pathlib import Path
import torch
from h1r.common import thread_waits

class Begun:
    pid = os.getpid()

    def __init__(self, library, asleep):
        begun.append(asleep)

    def start(self):
        begun.append("started")

begun = []
thread_waits.Watch = Begun
thread_waits._SCHEDSTAT = Path("/proc/self" if seen else "/proc/none")
thread_waits.loaded_libgomp = lambda maps: "libgomp"
torch.set_num_threads(2)
thread_waits.watch()
thread_waits.watch()
print(json.dumps([first, begun, os.environ.get("OMP_WAIT_POLICY"), h1r.WAITS_SET in os.environ]))
"""


@pytest.mark.parametrize(
    ("busy", "seen", "given", "found"),
    [
        (False, True, {}, [None, [False, "started"], None, False]),
        (True, True, {}, [None, [True, "started"], "PASSIVE", True]),
        # a process of one that did so decides anew
        (True, True, {"OMP_WAIT_POLICY": "PASSIVE", "H1R_WAITS_SET": "1"}, [None, [True, "started"], "PASSIVE", True]),
        (False, True, {"OMP_WAIT_POLICY": "PASSIVE", "H1R_WAITS_SET": "1"}, [None, [False, "started"], None, False]),
        # nobody can look: once for the whole process
        (True, False, {}, ["PASSIVE", [], "PASSIVE", False]),
        (False, False, {}, [None, [], None, False]),
        (True, True, {"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", [], "ACTIVE", False]),
        (True, True, {"GOMP_SPINCOUNT": "9"}, [None, [], None, False]),
        (True, True, {"KMP_BLOCKTIME": "9"}, [None, [], None, False]),
    ],
)  # fmt: skip
def test_threads_begin_as_the_machine_is_and_nobody_overrules_a_choice(
    busy: bool, seen: bool, given: dict[str, str], found: list[Any]
) -> None:
    """What torch's libgomp reads as it is loaded, whether threads are watched and how they begin, and what programs
    that are started later find."""
    names = (*h1r.WAITS, h1r.WAITS_SET)
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    done = subprocess.run([sys.executable, "-c", AT_START, json.dumps([busy, seen])], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout) == found


def test_whoever_chooses_kernels_for_a_cpu_has_threads_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def watch() -> None:
        asked.append("")

    monkeypatch.setattr(thread_waits, "watch", watch)
    selection.select("torch", "meta")
    assert asked == []
    selection.select("torch", "cpu")
    assert asked == [""]
