"""`kill -9` in every stage of a curation, the making of traces included: nothing is lost, done twice or different."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from corpora import answer, corpus_recipe, curated, outputs, question
from teacher import Teacher, running

import warm
from h1r.common.files import atomic
from h1r.config import Recipe
from h1r.config.text import to_toml
from h1r.data.curate import passes
from h1r.data.curate.io.files import alone_in
from h1r.errors import UserError
from h1r.records import Problem

CONCURRENCY = 3
PATIENCE_S = 600.0
"""For one start of a curation to come to a moment; on a busy machine Ray alone takes minutes."""
BARE = 24
"""Problems without traces, which the teacher is asked for."""
MOMENTS = (
    ("read/*.json", 1), ("sound/*.json", 3), ("suspects.parquet", 1), ("distinct/*.json", 3), ("near.parquet", 1),
    ("lines", 6), ("lines", 15), ("traced/*.json", 2), ("weighed/*.json", 1), ("packed/*.json", 2),
)  # fmt: skip
"""After so many files under work/ (or generated lines) the process is killed, within a random time."""
RAY_MOMENTS = (("read/*.json", 1), ("traced/*.json", 1))
"""Fewer with Ray, whose tasks are the same functions: in the first pass, and behind the teacher's traces."""


def recipe(path: Path, server: Teacher) -> Recipe:
    """The corpus of the other tests, and problems that a teacher is asked for."""
    traces = {"by": "endpoint", "url": server.url, "model": "big", "n": 5, "concurrency": CONCURRENCY}
    found = corpus_recipe(path, traces=traces)
    rows = [{"question": question(n), "answer": answer(n)} for n in range(1500, 1500 + BARE)]
    (path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = found.model_dump()
    bare = {"name": "bare", "kind": "jsonl", "path": "bare.jsonl", "columns": {"answer": "answer"}}
    tree["corpus"]["sources"].insert(1, bare)
    return Recipe.model_validate(tree)


def reached(work: Path, what: str) -> int:
    if what == "lines":
        return sum(path.read_bytes().count(b"\n") for path in (work / "generated").glob("*.jsonl"))
    return len(list(work.glob(what)))


def told(stage: Path) -> dict[str, bytes]:
    """`outputs`, with the lines of generated traces in an order of their own: they stand as the teacher answered."""
    return {
        name: b"".join(sorted(content.splitlines(True))) if name.startswith("work/generated/") else content
        for name, content in outputs(stage).items()
    }


@pytest.mark.timeout(3600)
@pytest.mark.slow  # twelve starts of a curation, four with Ray
@pytest.mark.parametrize(("executor", "moments"), [("local", MOMENTS), ("ray", RAY_MOMENTS)], ids=["local", "ray"])
def test_killed_in_every_stage_it_ends_in_the_bytes_of_an_unbroken_run(
    tmp_path: Path, executor: str, moments: tuple[tuple[str, int], ...]
) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    rng = random.Random(5)
    with running() as server:
        server.wait_s = 0.02
        found = recipe(tmp_path, server)
        (tmp_path / "corpus.toml").write_text(to_toml(found))
        command = ["curate", tmp_path / "corpus.toml"]
        unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
        warm.run(*command, "--out", unbroken, timeout=PATIENCE_S).check_returncode()
        command += ["--out", broken, "--set", f"corpus.executor={executor}"]
        assert set(server.asked.values()) == {1}
        server.asked.clear()

        work = broken / "curate" / "work"
        for what, count in moments:
            process = warm.start(*command)
            deadline = time.monotonic() + PATIENCE_S
            while reached(work, what) < count:
                assert process.poll() is None, f"it ended before {count} {what}"
                assert time.monotonic() < deadline
                time.sleep(0.0005)
            time.sleep(rng.uniform(0.0, 0.02))
            process.kill()
            process.wait()
            assert not (broken / "curate" / "summary.json").exists(), f"killed too late after {count} {what}"
        warm.run(*command, timeout=PATIENCE_S).check_returncode()

    assert told(broken / "curate") == told(unbroken / "curate")
    generated = [json.loads(line) for path in work.glob("generated/*.jsonl") for line in path.read_text().splitlines()]
    assert max(Counter(line["ordinal"] for line in generated).values()) == 1
    assert len(generated) == len(server.asked) == BARE
    again = sum(server.asked.values()) - BARE
    assert again <= 2 * CONCURRENCY, "more was asked again than was under way at the two kills among the traces"


def alive(group: int) -> list[int]:
    """The processes of a process group, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_curation_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(to_toml(corpus_recipe(tmp_path, workers=2)))
    process = warm.start("curate", tmp_path / "corpus.toml", "--out", tmp_path / "run")
    deadline = time.monotonic() + PATIENCE_S
    while not reached(tmp_path / "run" / "curate" / "work", "read/*.json"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(alive(process.pid)) > 2
    process.kill()
    process.wait()
    while left := alive(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_two_curations_into_one_run_are_refused(tmp_path: Path) -> None:
    found = corpus_recipe(tmp_path)
    with alone_in(tmp_path / "run" / "curate"), pytest.raises(UserError, match="another process curates into"):
        curated(found, tmp_path / "run")


def test_an_error_leaves_nothing_half_written(tmp_path: Path) -> None:
    def fails() -> None:
        with atomic(tmp_path / "a.parquet") as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("whole", [0, 1])
def test_what_says_that_held_out_questions_are_compared_is_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    """A kill between the two files once left no texts, and nothing was found to be near a held-out question."""
    problems = [(-1, Problem("h", "How many legs do 3 cows and 4 birds have together in the yard?", "20", "math"))]
    write_rows, written = passes.write_rows, list[Path]()

    def killed_after(path: Path, *rest: Any, **more: Any) -> None:
        if len(written) == whole:
            raise KeyboardInterrupt
        written.append(path)
        write_rows(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "write_rows", killed_after)
        with pytest.raises(KeyboardInterrupt):
            passes.write_compared(tmp_path, "held_out", problems, {}, 0.5)
    assert not (tmp_path / "bands" / "held_out.parquet").exists()
    passes.write_compared(tmp_path, "held_out", problems, {}, 0.5)
    assert {path.parent.name for path in tmp_path.glob("*/held_out.parquet")} == {"bands", "texts"}


def test_what_a_killed_process_left_half_written_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".a.parquet.0123.partial").write_text("half")
    with alone_in(tmp_path):
        assert not list((tmp_path / "work").iterdir())
