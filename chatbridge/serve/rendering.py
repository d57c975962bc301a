"""Render images beside the thread that shows the answer, so that progress is visible and a stop works at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait

from chatbridge.models.generators import RenderStopped, watching

POLL_S = 0.25  # between two looks at the progress


def progress_of(render: Callable[[], None], is_stopped: Callable[[], bool]) -> Generator[float]:
    """Run `render` in a thread; yields its finished share, 0 to 1, whenever it has grown.

    It ends when `render` has ended, or early when `is_stopped` gives True or the iterator is closed: a generator that
    reports its progress then ends at its next step, the result of any other one is not waited for.
    raises   what `render` raises
    """
    shares, is_ended = [0.0], threading.Event()

    def watch(share: float) -> None:
        if is_ended.is_set():
            raise RenderStopped
        shares[0] = share

    def run() -> None:
        try:
            with watching(watch):
                render()
            rendered.set_result(None)
        except RenderStopped:
            rendered.set_result(None)
        except BaseException as error:
            rendered.set_exception(error)

    rendered: Future[None] = Future()
    threading.Thread(target=run, name="render", daemon=True).start()
    shown = 0.0
    try:
        while not is_stopped() and wait([rendered], timeout=POLL_S).not_done:
            if shares[0] > shown:
                shown = shares[0]
                yield shown
        if rendered.done():
            rendered.result()
    finally:
        is_ended.set()
