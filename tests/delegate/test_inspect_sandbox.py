"""Our sandbox as an environment of inspect_ai: what its commands can do, and cannot."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.util import OutputLimitExceededError

from h1r.delegate.inspect_sandbox import SandboxFolder, shown_files
from h1r.errors import UserError
from h1r.sandbox import Isolation, refusal

LEVELS = [level for level in (Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK) if not refusal(level)]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
def test_files_outlive_commands_and_nothing_else_is_reached(
    level: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H1R_SANDBOX", level.name.lower())
    secret = tmp_path / "secret"
    secret.write_text("secret")

    async def work(place: SandboxFolder) -> None:
        await place.write_file("a/b.txt", "one\n")
        done = await place.exec(["sh", "-c", "cat b.txt; echo two >> b.txt; cat"], cwd="a", input="given")
        assert (done.success, done.stdout) == (True, "one\ngiven")
        assert await place.read_file("a/b.txt") == "one\ntwo\n"
        assert await place.read_file("a/b.txt", text=False) == b"one\ntwo\n"
        done = await place.exec(["python", "-c", "import numpy, os; print(os.environ['X'], numpy.ones(2).sum())"],
                                env={"X": "y"})  # fmt: skip
        assert done.stdout == "y 2.0\n", done.stderr
        code = "import socket, subprocess; print(subprocess.run(['true']).returncode); socket.socket()"
        done = await place.exec(["python", "-c", code])
        assert done.stdout == "0\n"
        assert not done.success
        assert not (await place.exec(["cat", str(secret)])).success
        assert not (await place.exec(["sh", "-c", f"echo x > {tmp_path}/written"])).success
        assert not (tmp_path / "written").exists()
        assert (await place.exec(["no-such-program"])).returncode == 127
        await place.exec(["ln", "-s", str(secret), "link"])
        for path in ("link", str(secret), "../../secret"):
            with pytest.raises((PermissionError, FileNotFoundError)):
                await place.read_file(path)
        with pytest.raises(PermissionError):
            await place.write_file("link", "overwritten")
        assert secret.read_text() == "secret"
        with pytest.raises(TimeoutError):
            await place.exec(["python", "-c", "while True: pass"], timeout=1)
        with pytest.raises(OutputLimitExceededError):
            await place.exec(["python", "-c", "while True: print('x' * 1000)"])
        assert (await place.exec(["cat", "a/b.txt"])).stdout == "one\ntwo\n"

    place = SandboxFolder()
    try:
        run(work(place))
    finally:
        place.close()
    assert not place.folder.exists()


def test_given_files_are_there_to_read(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("data")
    (tmp_path / "other.txt").write_text("other")
    (tmp_path / "Dockerfile").write_text("FROM x\nCOPY data.txt .\nCOPY --chmod=755 data.txt /elsewhere/\nRUN x\n")
    assert list(shown_files(tmp_path / "Dockerfile")) == ["data.txt"]
    place = SandboxFolder(str(tmp_path / "Dockerfile"))
    try:
        assert os.listdir(place.folder) == ["data.txt"]

        async def work() -> None:
            done = await place.exec(["sh", "-c", "cat data.txt; echo more >> data.txt"])
            assert (done.stdout, done.success) == ("data", False)
            assert await place.read_file("data.txt") == "data"

        run(work())
    finally:
        place.close()
    assert (tmp_path / "data.txt").read_text() == "data"
    with pytest.raises(UserError, match="is no folder and no Dockerfile"):
        SandboxFolder(str(tmp_path / "none"))
