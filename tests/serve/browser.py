"""A real Chromium without a window, driven over its debugging pipe (the Chrome DevTools Protocol): no driver, no package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

# Without these it asks hosts of its maker at every start.
QUIET = "--disable-background-networking --disable-component-update --disable-sync --no-first-run --disable-quic --no-default-browser-check"


KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}
ALT, SHIFT = 1, 8


def binary() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page. `console` holds what it complained of: exceptions, errors, refusals of its security policy; `asked`: (URL, body) of all it
    asked for."""

    def __init__(self, width: int = 1200, height: int = 800, dark: bool = False) -> None:
        found = binary()
        assert found is not None
        self._folder = tempfile.mkdtemp()
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = (
            f"exec {found} --headless --no-sandbox --disable-gpu {QUIET} --remote-debugging-pipe --user-data-dir={self._folder} "
            f"--window-size={width},{height} about:blank 3<&{theirs_in} 4>&{theirs_out}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._held, self.console = 0, b"", list[str]()
        self.asked: list[tuple[str, str]] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.look(width, height, dark)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        hover = {"name": "hover", "value": "none" if width < 600 else "hover"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, hover])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            for heard in self._messages():
                if heard.get("id") == self._number:
                    assert "error" not in heard, (method, heard["error"])
                    result: dict[str, Any] = heard["result"]
                    return result

    def _messages(self) -> list[dict[str, Any]]:
        while b"\0" not in self._held:
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._held += data
        *whole, self._held = self._held.split(b"\0")
        found = [json.loads(one) for one in whole]
        for heard in found:
            if heard.get("method") == "Runtime.exceptionThrown":
                self.console.append(str(heard["params"]["exceptionDetails"]))
            if heard.get("method") == "Log.entryAdded" and heard["params"]["entry"]["level"] == "error":
                self.console.append(heard["params"]["entry"]["text"] + " " + heard["params"]["entry"].get("url", ""))
            if heard.get("method") == "Network.requestWillBeSent":
                request = heard["params"]["request"]
                self.asked.append((request["url"], request.get("postData", "")))
        return found

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression (awaited)."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, (script, self.text(), self.console)
            time.sleep(0.05)

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, text: str) -> None:
        """Into what has the focus, as a person would."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        code = f"Key{key.upper()}" if len(key) == 1 else key
        values = {"key": key, "code": code, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper())), "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", **values, **({"text": "\r"} if key == "Enter" else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **values)

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)
