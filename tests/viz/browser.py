"""A real headless Chromium over the DevTools protocol: enough to load a page, move the mouse and take a picture."""

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page. Everything that the console or the page's policy complains about ends up in `errors`."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900):
        import websocket

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--disable-background-networking", "--no-first-run", "--remote-debugging-port=0"]
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        words = [CHROMIUM, *flags, "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        address = next(re.search(r"ws://\S+", line)[0] for line in self._process.stderr if "listening on ws" in line)
        self._socket = websocket.create_connection(address, timeout=60)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=20)

    _session: str | None = None

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._notice(answer)

    def _notice(self, event: dict[str, Any]) -> None:
        method, params = event["method"], event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        level = params.get("entry", {}).get("level") or params.get("type")  # of Log.entryAdded, of consoleAPICalled
        if method == "Runtime.exceptionThrown" or level in ("error", "warning"):
            self.errors.append(str(params))

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path: Path) -> None:
        """Load a local page and wait until its first map is drawn."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.body && document.body.dataset.drawn !== undefined")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression (promises are awaited)."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 20) -> None:
        """Wait until a JavaScript condition holds."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {condition}; errors so far: {self.errors}")
            time.sleep(0.02)

    def point_at(self, selector: str, click: bool = False) -> None:
        """Move the mouse to the middle of an element's first line box; press it if asked to."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{box}.scrollIntoView({{block: 'nearest'}})")
        x, y, width, height = self.run(f"(r => [r.x, r.y, r.width, r.height])({box}.getClientRects()[0])")
        place = {"x": x + width / 2, "y": y + height / 2}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **place)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def choose(self, element_id: str, value: object, event: str = "change") -> None:
        """Give a control a value and tell the page."""
        field = f"document.getElementById('{element_id}')"
        self.run(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('{event}'))")

    def text(self, element_id: str) -> str:
        """What an element says."""
        return self.run(f"document.getElementById('{element_id}').textContent")

    def texts(self, selector: str) -> list[str]:
        """What each of some elements says."""
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")

    def count(self, selector: str) -> int:
        """Number of elements."""
        return self.run(f"document.querySelectorAll({json.dumps(selector)}).length")

    def press(self, key: str) -> None:
        """Press a key such as `ArrowRight`."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, path: Path, **options: Any) -> Path:
        """Write a PNG of the window, or with `captureBeyondViewport=True` of the whole page."""
        shot = self.send("Page.captureScreenshot", format="png", **options)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path
