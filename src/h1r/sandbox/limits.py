"""What one run of tested code may use, and how strongly it is confined. No imports but the standard library's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

MAX_SECONDS = 86_400
MAX_COUNT = 1 << 62
WALL_STRETCH, ANSWER_STRETCH = 10.0, 4.0
"""How far the limits of wall time lie above those of the time that is spent. One core that a run shares with three
busy loops stretches a test by four; a whole answer seldom spends its total."""
THREADS = 64
"""Threads that tested code may have, beside its processes."""


class Isolation(IntEnum):
    """The level in force, strongest last; docs/internals/sandbox.md says what each covers.

    `REMOTE`: another machine's sandbox, whose strength is not known here. `RLIMITS`: resource limits and the system
    call filter only, for a user who says so. `LANDLOCK`: these and the kernel's own file rules. `BUBBLEWRAP`: these
    inside a file system, processes, network and users that the runs of one worker share. `NAMESPACES`: such of each
    run's own. `GVISOR`: a kernel of each run's own, where `runsc` is installed and the user asks for it.
    """

    REMOTE = 0
    RLIMITS = 1
    LANDLOCK = 2
    BUBBLEWRAP = 3
    NAMESPACES = 4
    GVISOR = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one test, of all tests of an answer, and of the answer as a whole.

    Two limits are of the time that a run itself spends: that of its processors, and that in which all of it sleeps
    (`meter` says how it is measured). A busy machine does not change them:

        time_s     one test: a run of a program, a call of a function
        total_s    all tests of an answer together

    Two are of the wall, far above, for what the first two do not see; None stands for a multiple of them:

        wall_s     one test, 10 times `time_s`
        answer_s   the whole of an answer: start, compilation, every test, checks and digests, 4 times `total_s`

    `memory_bytes` bounds the address space of each
    process (for `memory="data"`, its private writable memory: V8 reserves far more than it uses). `scratch_bytes`
    bounds the files of its folder together, `output_bytes` each of stdout and stderr and each value returned.
    `processes` above 1 permits `fork`; every process then has the whole `memory_bytes`.
    """

    time_s: float = 6.0
    total_s: float = 120.0
    wall_s: float | None = None
    answer_s: float | None = None
    memory_bytes: int = 1 << 30
    memory: str = "address_space"
    stack_bytes: int = 256 << 20
    processes: int = 1
    scratch_bytes: int = 32 << 20
    output_bytes: int = 8 << 20
    open_files: int = 64

    def __post_init__(self) -> None:
        times = [self.time_s, self.total_s, *(wall for wall in (self.wall_s, self.answer_s) if wall is not None)]
        if not all(0 < seconds <= MAX_SECONDS for seconds in times):
            raise ValueError(f"limits of time must lie above 0 and at most at {MAX_SECONDS} seconds")
        counts = (self.memory_bytes, self.processes, self.output_bytes, self.open_files)
        if not all(isinstance(count, int) and 0 < count <= MAX_COUNT for count in counts):
            raise ValueError("limits of memory and the like must be whole numbers above 0")
        if self.memory not in ("address_space", "data"):
            raise ValueError('`memory` is "address_space" or "data"')

    @property
    def test_wall_s(self) -> float:
        """`wall_s`, or what stands for it."""
        return self.wall_s if self.wall_s is not None else self.time_s * WALL_STRETCH

    @property
    def answer_wall_s(self) -> float:
        """`answer_s`, or what stands for it."""
        return self.answer_s if self.answer_s is not None else self.total_s * ANSWER_STRETCH

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return dataclasses.asdict(self)
