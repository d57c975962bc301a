"""Sends curves to a tracker from a thread of its own.

A run never waits for a tracker: a step only puts its values into a list. A tracker that cannot be reached is named in
one warning and tried again from time to time, with the values that it missed; at the end it has a few seconds.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from chatbridge.common.environment import hidden
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import replace_text

log = get_logger(__name__)
IDS = "trackers.json"  # in the run folder: tracker -> id of its run
MOST_WAITING = 10_000  # points that wait for a tracker; older ones are dropped
RETRY_S = 60.0
LAST_S = 15.0  # at the end of the run
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME")

Point = tuple[int, float, Mapping[str, float]]  # step, seconds since 1970, values


class Sink(Protocol):
    """One tracker. All calls come from the same thread, and any of them may raise."""

    name: str

    def start(self, run_id: str | None, settings: Mapping[str, Any]) -> str:
        """Open the run of this id, or a new one; returns the id. Called again after an error."""
        ...

    def send(self, points: Sequence[Point]) -> None:
        """Add points to the curves."""
        ...

    def finish(self, outcome: str) -> None:
        """Close the run: finished, stopped or failed."""
        ...


class Background:
    """A tracker in a thread.

    folder    of the run, for the id
    settings  of the run, without secrets
    """

    def __init__(self, sink: Sink, folder: Path, settings: Mapping[str, Any]) -> None:
        self.sink = sink
        self.folder = folder
        self.settings = json.loads(json.dumps(settings, default=str))
        self.waiting: deque[Point] = deque(maxlen=MOST_WAITING)
        self._queue: queue.SimpleQueue[Point | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {sink.name}", daemon=True)
        self._is_started, self._has_warned, self._next_try = False, False, 0.0

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the curves; returns at once."""
        self._queue.put((step, time.time(), dict(values)))

    def close(self, outcome: str) -> None:
        """Send what is left and close the run, for at most `LAST_S` seconds."""
        if not self._thread.is_alive():
            return
        self._queue.put(outcome)
        self._thread.join(LAST_S)
        if self._thread.is_alive():
            log.warning("%s: not everything could be sent within %.0f s; the run ends without", self.sink.name, LAST_S)

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, str):
                self._attempt(item)
                return
            self.waiting.append(item)
            while not self._queue.empty() and len(self.waiting) < 500:  # a batch
                item = self._queue.get()
                if isinstance(item, str):
                    self._attempt(item)
                    return
                self.waiting.append(item)
            if time.monotonic() >= self._next_try:
                self._attempt()

    def _attempt(self, outcome: str | None = None) -> None:
        """Send what waits; an error is told once."""
        try:
            if not self._is_started:
                run_id = self.sink.start(_read_ids(self.folder).get(self.sink.name), self.settings)
                _write_id(self.folder, self.sink.name, run_id)
                self._is_started = True
            if self.waiting:
                self.sink.send(tuple(self.waiting))
                self.waiting.clear()
            if outcome is not None:
                self.sink.finish(outcome)
        except BaseException as error:  # a library may even raise SystemExit
            self._next_try = time.monotonic() + RETRY_S
            if not self._has_warned:
                self._has_warned = True
                message = _without_secrets(f"{type(error).__name__}: {error}".partition("\n")[0])
                log.warning("%s: %s; the run goes on, and the tracker is tried again", self.sink.name, message)
        else:
            if self._has_warned:
                log.info("%s: works again", self.sink.name)
            self._has_warned = False


def _read_ids(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads((folder / IDS).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _write_id(folder: Path, name: str, run_id: str) -> None:
    ids = _read_ids(folder)
    if ids.get(name) != run_id:
        replace_text(folder / IDS, json.dumps({**ids, name: run_id}, indent=1) + "\n")


def _without_secrets(text: str) -> str:
    """The text with the values of the keys, which a library may show in a message, replaced by their names."""
    for name in SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, f"${name}")
    return hidden(text)
