"""The demo's page in a real Chromium: what a person does and sees."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# a camera and a microphone that need no device and no permission
FAKE_DEVICES = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--no-sandbox"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_MS = 60_000  # of one step, on a busy machine


def chromium() -> str | None:
    """The installed Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class DemoPage:
    """One browser session: cookies and chat of its own."""

    def __init__(self, browser: Any, address: str, shots: Path, width: int = 1280, height: int = 900) -> None:
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.page, self.shots = context.new_page(), shots
        self.page.set_default_timeout(TIMEOUT_MS)
        self.foreign: list[str] = []  # requests to other servers
        self.errors: list[str] = []
        self.page.on("request", lambda one: self._requested(one.url, address))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.goto(address)
        self.page.wait_for_selector("#box textarea")

    def _requested(self, url: str, address: str) -> None:
        if url.startswith("http") and not url.startswith(address.rstrip("/")):
            self.foreign.append(url)

    def attach(self, *files: Path) -> None:
        self.page.locator("#box input[type=file]").first.set_input_files([str(path) for path in files])
        self.page.wait_for_function(f"document.querySelectorAll('#box .thumbnail-item').length == {len(files)}")

    def send(self, text: str, *files: Path) -> None:
        """Send without waiting for the answer."""
        if files:
            self.attach(*files)
        self.page.fill("#box textarea", text)
        self.page.press("#box textarea", "Enter")

    def ask(self, text: str, *files: Path) -> str:
        """Send, and wait for the whole answer of the first model."""
        count = len(self.users())
        self.send(text, *files)
        until(lambda: len(self.users()) > count)
        self.wait_until_ready()
        return self.answers()[-1]

    def wait_until_ready(self) -> None:
        """Until the send button is back."""
        self.page.wait_for_selector("#box [data-testid=submit-button]")

    def stop(self) -> None:
        self.page.click("#box .stop-button")

    def click(self, name: str) -> None:
        self.page.click(f"#{name}")

    def users(self, chat: str = "chat") -> list[str]:
        """The questions on the page."""
        return self._texts(chat, "user")

    def answers(self, chat: str = "chat") -> list[str]:
        """Answers, notes and problems of a model: `chat`, or `other` for the second one."""
        return self._texts(chat, "bot")

    def _texts(self, chat: str, role: str) -> list[str]:
        found = self.page.evaluate(
            """([chat, role]) => [...document.querySelectorAll(`#${chat} .message-row.${role}-row .message-content`)]
               .map(one => one.innerText.trim())""",
            [chat, role],
        )
        return [text for text in found if text]

    def panel(self) -> str:
        return self.page.inner_text("#given")

    def status(self) -> str:
        return self.page.inner_text("#status")

    def shoot(self, name: str) -> Path:
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path

    def close(self) -> None:
        self.page.context.close()


def until(is_reached: Callable[[], Any], seconds: float = TIMEOUT_MS / 1000) -> None:
    """Wait. raises AssertionError after `seconds`"""
    end = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
