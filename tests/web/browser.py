"""Headless Chromium over its debugging pipe (CDP: JSON, a NUL after each message), with nothing but the standard library.

Everything that the page asks for and everything that its console says is kept, so that a test can say that there was nothing.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]
ANSWER_WITHIN_S = 60.0


def chromium() -> str | None:
    """Return where Chromium is; None when it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One browser and its one page."""

    def __init__(self, write_fd: int, read_fd: int) -> None:
        self._write_fd = write_fd
        self._read_fd = read_fd
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.asked: list[str] = []
        self.said: list[str] = []  # errors and warnings of the console, and what was thrown

    def open_page(self) -> None:
        """Open the page that everything else is about."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> Json:
        """Call a method of the protocol and return its result."""
        self._number += 1
        session = {} if self._session is None else {"sessionId": self._session}
        message = {"id": self._number, "method": method, "params": params, **session}
        os.write(self._write_fd, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while True:
            told = self._next(deadline)
            if told is None:
                raise AssertionError(f"Chromium does not answer {method}")
            if told.get("id") == self._number:
                assert "error" not in told, (method, told)
                result: Json = told["result"]
                return result

    def _next(self, deadline: float) -> Json | None:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = os.read(self._read_fd, 1 << 16)
            if not data:
                raise AssertionError("Chromium is gone")
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        told: Json = json.loads(raw)
        self._keep(told)
        return told

    def _keep(self, told: Json) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.said.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.said.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.said.append(str(params["entry"]))

    # --- the page --------------------------------------------------------------------------------------------------------

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def colours(self, scheme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def goto(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, script: str, within_s: float = 30.0) -> Any:
        """Return the first truthy value of an expression."""
        return self.wait(lambda: self.run(script), script, within_s)

    def wait(self, look: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
        deadline = time.monotonic() + within_s
        while not (seen := look()):
            assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}; the console: {self.said}"
            time.sleep(0.05)
        return seen

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own with an empty profile."""
    program = chromium()
    assert program is not None, "Chromium is not installed: scripts/test-web installs it"
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="ai-web-", ignore_cleanup_errors=True) as profile:
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
        )
        # The pipe is at 3 and 4; dash cannot move descriptors above 9.
        script = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        child = subprocess.Popen(
            ["bash", "-c", script, program, *options],
            pass_fds=(to_browser[0], from_browser[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            found = Browser(to_browser[1], from_browser[0])
            found.open_page()
            yield found
        finally:
            child.terminate()
            child.wait(20)
            os.close(to_browser[1])
            os.close(from_browser[0])
