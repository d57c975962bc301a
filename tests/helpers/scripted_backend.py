"""A backend without a model: it answers with words of its own, as fast as a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.conversation.messages import Conversation, Part, Text
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.answer import Answer
from chatbridge.serve.request import PLAIN, RequestSettings, Usage
from chatbridge.serve.uploads.upload_parts import Attachment


class ScriptedBackend:
    """Answers with these parts, one word of a text after the other.

    pause_s    between two words
    hold       set: an answer waits after its first word until this is set, or it is stopped
    at_once    raised by `stream` itself
    later      raised after the first word
    """

    def __init__(
        self,
        *parts: Part,
        pause_s: float = 0.0,
        hold: threading.Event | None = None,
        at_once: Exception | None = None,
        later: BaseException | None = None,
    ) -> None:
        self.parts = parts or (Text("one two three"),)
        self.hold = hold
        self.pause_s, self.at_once, self.later = pause_s, at_once, later
        self.limits, self.generation, self.question_form = ChatLimits(), GenerateOptions(), QuestionForm()
        self.about, self.modalities = ("scripted",), ("image",)
        self.asked: list[tuple[Conversation, GenerateOptions | None, RequestSettings]] = []
        self.num_running = self.num_stopped = 0
        self.is_closed = False
        self.trouble: str | None = None
        self._lock = threading.Lock()

    def attach(self, path: str | Path, modality: str | None = None) -> Attachment:
        raise AssertionError("no test attaches a file to it")

    def stream(
        self,
        conversation: Conversation,
        options: GenerateOptions | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        settings: RequestSettings = PLAIN,
    ) -> Iterator[Answer]:
        with self._lock:
            self.asked.append((conversation, options, settings))
        if self.at_once is not None:
            raise self.at_once
        return self._stream(is_stopped)

    def _stream(self, is_stopped: Callable[[], bool]) -> Iterator[Answer]:
        with self._lock:
            self.num_running += 1
        try:
            for parts in self._states():
                if is_stopped():
                    with self._lock:
                        self.num_stopped += 1
                    return
                yield Answer(parts)
                if self.later is not None:
                    raise self.later
                while self.hold is not None and not (self.hold.wait(0.005) or is_stopped()):
                    pass
                time.sleep(self.pause_s)
            yield Answer(self.parts, is_done=True, finish="stop", usage=Usage(prompt=4, cached=1, answer=3))
        finally:
            with self._lock:
                self.num_running -= 1

    def _states(self) -> Iterator[tuple[Part, ...]]:
        whole: tuple[Part, ...] = ()
        for part in self.parts:
            words = part.text.split(" ") if isinstance(part, Text) else []
            yield from ((*whole, Text(" ".join(words[:count]) + " ")) for count in range(1, len(words) + 1))
            whole = (*whole, part)
            yield whole

    def answer(self, conversation: Conversation, options: Any = None, settings: RequestSettings = PLAIN) -> Answer:
        *_, last = self.stream(conversation, options, settings=settings)
        return last

    def stats(self) -> Mapping[str, Any]:
        return {"running": self.num_running, "requests_total": {"stop": 2}, "cache_bytes": 7}

    def problem(self) -> str | None:
        return self.trouble

    def close(self) -> None:
        self.is_closed = True
