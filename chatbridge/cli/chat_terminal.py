"""Answers in the terminal: printed as they grow, or as JSON lines; Ctrl-C stops one."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from chatbridge.common.text_repair import repaired
from chatbridge.serve.dialogue import record_of
from chatbridge.serve.drawn_files import DrawnFiles
from chatbridge.serve.saved_conversations.conversation_file import SaveError
from chatbridge.serve.session import ChatTurn

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would move the cursor, change colors or run commands


class AnswerPrinter:
    """Writes the turns of a conversation to stdout, and notes and problems to stderr.

    as_json   a JSON object per turn instead of text
    files     saves the images of answers; None: they are not saved
    saving    saves the conversation; called after every answer
    num_unsaved  answers after which that failed
    """

    def __init__(
        self, as_json: bool = False, files: DrawnFiles | None = None, saving: Callable[[], object] | None = None
    ) -> None:
        self.as_json, self.files, self.saving = as_json, files, saving
        self.num_unsaved = 0

    def show(self, turns: Generator[ChatTurn], stop: Callable[[], object] | None = None) -> ChatTurn | None:
        """Print a growing turn; returns its last state, None if there was no question.

        stop   ends the answer: called at the first Ctrl-C, while the second one raises KeyboardInterrupt, as the first
               one does without it
        """
        last, written, announced = None, "", None
        try:
            with closing(turns), _stop_requests(stop):
                for last in turns:
                    if not self.as_json:
                        written = self._write(last, written)
                    if last.rendering != announced:
                        announced = last.rendering
                        self._announce(announced, bool(written))
        except KeyboardInterrupt:
            if written:
                print(flush=True)  # what follows begins in a line of its own
            raise
        if last is not None:
            self._finish(last, bool(written))
        return last

    def _write(self, turn: ChatTurn, written: str) -> str:
        """Write what is new of the answer; blanks at its end wait, since they may belong to a stop string."""
        text = for_terminal(turn.display) if turn.is_done else for_terminal(turn.display).rstrip()
        if text.startswith(written):
            print(text[len(written) :], end="", flush=True)
        elif not written.startswith(text):  # the answer was rewritten; never observed with the decoders in use
            print(f"\n{text}", end="", flush=True)
        return text

    def _announce(self, caption: str | None, has_text: bool) -> None:
        """Tell a person who waits that an image is being rendered."""
        if caption is not None and sys.stderr.isatty():
            tell(f"\ndrawing: {caption} ..." if has_text and not self.as_json else f"drawing: {caption} ...")

    def _finish(self, turn: ChatTurn, has_text: bool) -> None:
        drawings = self.files.drawings_of(turn) if self.files is not None else []
        if self.as_json:
            print(json.dumps(record_of(turn, drawings), ensure_ascii=False), flush=True)
        elif turn.problem is None or has_text:
            print(flush=True)
        for one in () if self.as_json else drawings:
            if (shown := one["image"] or one.get("problem")) is not None:
                tell(f"image of {one['caption']!r}: {shown}")
        for note in turn.notes:
            tell(f"note: {note}")
        if turn.problem is not None:
            tell(f"cannot answer: {turn.problem}")
        elif not turn.is_done:
            tell("stopped" if turn.answer or turn.parts else "stopped before the first word")
        elif turn.is_cut:
            tell(f"note: the answer reached its longest length, max_new_tokens {turn.num_tokens}, and was ended")
        elif not turn.display and not self.as_json:
            tell("note: the answer is empty")
        if turn.finish == "time":
            tell("note: the answer reached its time limit and was ended")
        self._save(turn)

    def _save(self, turn: ChatTurn) -> None:
        if self.saving is None or turn.problem is not None:
            return
        try:
            self.saving()
        except SaveError as error:
            self.num_unsaved += 1
            tell(f"the conversation is not saved: {error}")


def tell(text: str) -> None:
    """Write a message to stderr."""
    print(for_terminal(text), file=sys.stderr, flush=True)


def for_terminal(text: str) -> str:
    """Text in which control characters, which a terminal would obey, are visible."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], repaired(text))


@contextmanager
def _stop_requests(stop: Callable[[], object] | None) -> Iterator[None]:
    """Within the block the first Ctrl-C calls `stop`; the second one interrupts."""
    if stop is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    requests: list[int] = []

    def request(number: int, frame: Any) -> None:
        requests.append(number)
        if len(requests) > 1:
            raise KeyboardInterrupt
        stop()

    before = signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def typed_lines() -> Iterator[str]:
    """Lines of stdin. In a terminal with a prompt and a history; Ctrl-C twice, or Ctrl-D, ends them."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  line editing and history of `input`
    was_interrupted = False
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if was_interrupted:
                raise
            was_interrupted = True
            tell("Ctrl-C again, or /quit, leaves")
            continue
        was_interrupted = False
        yield for_terminal(line) if "\x00" in line else line
