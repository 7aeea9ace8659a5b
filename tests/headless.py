"""A browser without a window, to see what a person would see of a page.

It is Debian's `chromium`, spoken to in its DevTools protocol over two pipes. Selenium would need a driver of
the browser's very version beside it, and Playwright a Node.js of its own and browsers that it fetches itself
(Debian's may differ from those that it supports); both for the dozen commands below.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# The browser expects the pipes as its files 3 and 4, whatever is there now.
_LAUNCH = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(file), fcntl.F_DUPFD, 10) for file in sys.argv[1:3]]
os.dup2(ours[0], 3)
os.dup2(ours[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

WHY_NOT = "there is no chromium here (Debian: apt-get install chromium)"


class Page:
    """A tab of a browser of its own; closing it ends the browser.

    Attributes:
        complaints: console errors, exceptions of scripts and what the security policy refused, so far.
        requests: addresses that were asked for, so far.
    """

    def __init__(self, width: int = 1200, height: int = 900, *, dark: bool = False) -> None:
        assert PROGRAM
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read_theirs, self._write = os.pipe()
        self._read, write_theirs = os.pipe()
        flags = [
            *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"),
            *(f"--user-data-dir={self._home.name}", f"--window-size={width},{height}", "about:blank"),
        ]
        self._browser = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, str(read_theirs), str(write_theirs), PROGRAM, *flags],
            pass_fds=(read_theirs, write_theirs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_theirs)
        os.close(write_theirs)
        self._rest = b""
        self._count = 0
        self._session: str | None = None
        try:
            self._attach(width, height, "dark" if dark else "light")
        except BaseException:
            self.close()
            raise

    def open(self, file: Path) -> None:
        """Load a file and wait until everything in it is there."""
        self.requests.clear()
        self._send("Page.navigate", url=file.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def run(self, script: str) -> Any:
        """The value of an expression in JavaScript."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"still not so after {seconds} s: {condition}"
            time.sleep(0.05)

    def click(self, x: float, y: float) -> None:
        """Press the mouse at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, file: Path | None = None, *, whole: bool = False) -> bytes:
        """What is to be seen, as a PNG; the whole page rather than the window's part where asked for."""
        data = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        picture = base64.b64decode(data)
        if file is not None:
            file.write_bytes(picture)
        return picture

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)
        try:
            self._browser.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._browser.kill()
            self._browser.wait()
        os.close(self._read)
        self._home.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attach(self, width: int, height: int, scheme: str) -> None:
        tabs = self._send("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in tabs if target["type"] == "page")
        self._session = self._send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", **size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self._send("Emulation.setEmulatedMedia", features=media)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], 60)
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 2**20)
            assert piece, "the browser has ended"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: str, what: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(str(what["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(what["args"]))
        elif event == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(what["entry"]))
        elif event == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
