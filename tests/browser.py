"""A headless Chromium to look at a page with: its debugging protocol over two pipes, with the standard library alone."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

from processes import HANGS

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def pipe():
    """A pipe whose ends are numbered from 10 on, so that 3 and 4 stay free."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high


class Browser:
    """One tab; everything that the page logs or is refused is kept in ``messages``."""

    def __init__(self, folder, width=1280, height=900, webgl=False):
        theirs, self.out = pipe()
        self.inn, ours = pipe()
        command = [FOUND, "--headless", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        command += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if webgl else ["--disable-gpu"]  # drawn by the CPU
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command += [f"--window-size={width},{height}", "about:blank"]

        def place():  # Chromium reads commands from file 3 and answers on file 4
            os.dup2(theirs, 3)
            os.dup2(ours, 4)

        self.process = subprocess.Popen(command, preexec_fn=place, pass_fds=(3, 4), **quiet)
        os.close(theirs)
        os.close(ours)
        self.rest, self.count, self.messages, self.session = b"", 0, [], None
        self.session = self.call("Target.attachToTarget", targetId=self._first_tab(), flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(HANGS)
        os.close(self.out)
        os.close(self.inn)

    def _first_tab(self):
        """The tab that it begins with, which may come after its first answers."""
        end = time.monotonic() + HANGS
        while time.monotonic() < end:
            for one in self.call("Target.getTargets")["targetInfos"]:
                if one["type"] == "page":
                    return one["targetId"]
            time.sleep(0.05)
        raise TimeoutError("the browser has no tab")

    @contextmanager
    def another_tab(self):
        """What is done within is done in a new tab."""
        first, self.session = self.session, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        try:
            yield
        finally:
            self.session = None
            self.call("Target.closeTarget", targetId=target)
            self.session = first

    def call(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.messages.append(answer)

    def _next(self, seconds=HANGS):
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            if not select.select([self.inn], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            read = os.read(self.inn, 1 << 20)
            if not read:
                raise RuntimeError("the browser has ended")
            self.rest += read
        first, self.rest = self.rest.split(b"\0", 1)
        return json.loads(first)

    def open(self, place):
        """A file's path, or an address."""
        self.messages = [message for message in self.messages if message.get("method") != "Page.loadEventFired"]
        self.call("Page.navigate", url=place if isinstance(place, str) else place.resolve().as_uri())
        while not any(message.get("method") == "Page.loadEventFired" for message in self.messages):
            self.messages.append(self._next())

    def run(self, script):
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, script, seconds=HANGS):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {script}")
            time.sleep(0.05)

    def press(self, key, **more):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **more)

    def click(self, selector):
        """As a person does: in the middle of what is seen there."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{box}.scrollIntoView({{block: 'nearest'}})")
        x, y = self.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, *paths, at=(400, 400)):
        """Drop files or folders, as from a file manager."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=at[0], y=at[1], data=data)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """What the page logged as error, threw, or was refused."""
        kinds = {"Runtime.exceptionThrown", "Log.entryAdded"}
        return [message["params"] for message in self.messages if message.get("method") in kinds]

    def requests(self):
        """Addresses that the page asked for."""
        return [m["params"]["request"]["url"] for m in self.messages if m.get("method") == "Network.requestWillBeSent"]
