"""A page in a headless Chromium: loaded once (`browse`), or operated by a test (`opened`)."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
"""Its program; "" where there is none."""


def _command(tmp_path: Path) -> list[str]:
    flags = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
             "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    if os.name == "posix" and os.geteuid() == 0:
        flags.append("--no-sandbox")
    return [CHROMIUM, *flags]


def browse(page: Path, tmp_path: Path, fragment: str = "", budget_ms: int = 4000) -> subprocess.CompletedProcess[str]:
    """Loads a page in a headless browser; stdout is its DOM afterwards, stderr has its console."""
    flags = ["--enable-logging=stderr", f"--virtual-time-budget={budget_ms}", "--dump-dom"]
    return subprocess.run(
        [*_command(tmp_path), *flags, page.as_uri() + fragment],
        capture_output=True, text=True, timeout=120, check=True, errors="replace",
    )  # fmt: skip


class Page:
    """A tab, over Chromium's DevTools protocol. `complaints`: errors and warnings of its console, failed requests and
    exceptions that nothing caught."""

    def __init__(self, to: BinaryIO, come: BinaryIO) -> None:
        self._to, self._come = to, come
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        (target,) = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command, and what it returns."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (found := self._next()).get("id") != self._number:
            self._note(found)
        assert "error" not in found, (method, found["error"])
        return dict(found["result"])

    def open(self, url: str) -> None:
        """Goes there, and waits until it has loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, or what its promise comes to."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Until it holds."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"!!({expression})"):
            assert time.monotonic() < deadline, f"{expression} did not come true; {self.complaints}"
            time.sleep(0.02)

    def look(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Sets the size of the screen, and its colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, by its name and Windows' number for it."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def write(self, text: str) -> None:
        """Types a text where the focus is."""
        self.call("Input.insertText", text=text)

    def shot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def processor_seconds(self) -> dict[int, float]:
        """What each of the browser's processes has used, by its id. One draws the page, one puts it on the screen."""
        session, self._session = self._session, None
        try:
            found = self.call("SystemInfo.getProcessInfo")["processInfo"]
            return {one["id"]: float(one["cpuTime"]) for one in found}
        finally:
            self._session = session

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._come.read(1)) != b"\0":
            assert byte, "the browser has ended"
            data += byte
        return dict(json.loads(data))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["entry"]))
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"]))


_ON_PIPES = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""


@contextlib.contextmanager
def opened(tmp_path: Path) -> Iterator[Page]:
    """A browser with an empty tab. Its protocol goes over two pipes, which Chromium has as files 3 and 4."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (theirs_in, theirs_out)]
    command = [*_command(tmp_path), "--remote-debugging-pipe", "about:blank"]
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_PIPES, *map(str, high), *command],
        pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for one in (theirs_in, theirs_out, *high):
        os.close(one)
    with os.fdopen(ours_out, "wb") as to, os.fdopen(ours_in, "rb") as come:
        try:
            yield Page(to, come)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
