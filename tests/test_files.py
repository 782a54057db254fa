"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from h1r.common.files import atomic, replace_directory, write_text


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.txt"
    write_text(path, "old")

    def fails() -> None:
        with atomic(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """Each writes its half, waits for the other, and writes the rest."""
    path, meeting = tmp_path / "x.txt", threading.Barrier(2, timeout=10)

    def write(letter: str) -> None:
        with atomic(path) as partial, open(partial, "w") as handle:
            handle.write(letter * 50_000)
            handle.flush()
            meeting.wait()
            handle.write(letter * 50_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_whose_writer_fails_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "d"
    replace_directory(path, lambda directory: write_text(directory / "x", "old"), re.compile(""))

    def fails(directory: Path) -> None:
        write_text(directory / "x", "new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_directory(path, fails, re.compile(""))
    assert (path / "x").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_directory_keeps_what_is_not_to_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for name in ("keep", "drop-1"):
        write_text(path / name, "old")
    replace_directory(path, lambda directory: write_text(directory / "new", "new"), re.compile("drop.*"))
    assert sorted(file.name for file in path.iterdir()) == ["keep", "new"]
