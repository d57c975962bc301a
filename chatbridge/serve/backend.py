"""What answers requests behind a front end: the engine of this process, or a proxy of models elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from chatbridge.conversation.messages import Conversation
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.answer import Answer
from chatbridge.serve.request import PLAIN, RequestSettings
from chatbridge.serve.uploads.upload_parts import Attachment


class Busy(RuntimeError):
    """As many requests wait as may; str() is the message for the user. Asking again later may succeed.

    retry_s   an estimate of the seconds until a place is free
    """

    def __init__(self, message: str, retry_s: float = 1.0):
        super().__init__(message)
        self.retry_s = retry_s


class Unavailable(RuntimeError):
    """No request can be answered at present; str() is the message for the user.

    status   of HTTP: 503 closed or not reachable, 502 the other side failed, 504 it did not answer in time
    """

    def __init__(self, message: str, status: int = 503):
        super().__init__(message)
        self.status = status


@runtime_checkable
class Backend(Protocol):
    """Answers conversations; any number of threads may call it at once. `ChatEngine` is one.

    limits   of uploaded files and conversations
    """

    limits: ChatLimits

    @property
    def about(self) -> tuple[str, ...]:
        """Lines for the user: which weights answer."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the files that it accepts."""
        ...

    @property
    def generation(self) -> GenerateOptions:
        """Generation settings of a request that has none."""
        ...

    @property
    def question_form(self) -> QuestionForm:
        """How front ends put the files and the text of a question together."""
        ...

    def attach(self, path: str | Path, modality: str | None = None) -> Attachment:
        """A file as typed, decoded parts of a turn. raises MediaError with a message for the user

        modality   read it as this one; None: the content decides, and a video brings its audio track
        """
        ...

    def stream(
        self,
        conversation: Conversation,
        options: GenerateOptions | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        settings: RequestSettings = PLAIN,
    ) -> Iterator[Answer]:
        """The answer as it grows; the last item is complete, unless `is_stopped` or the caller ended it.

        raises   MediaError, NoAnswer, ValueError or TypeError for a request that cannot be answered, Busy and
                 Unavailable; all before the first item is requested where they can be known by then
        """
        ...

    def answer(
        self,
        conversation: Conversation,
        options: GenerateOptions | None = None,
        settings: RequestSettings = PLAIN,
    ) -> Answer:
        """The complete answer; see `stream`."""
        ...

    def stats(self) -> Mapping[str, float | Mapping[str, float]]:
        """What was counted since the start, for /metrics. A name ending in _total only ever grows; a mapping holds
        the same count for several kinds, for example {"requests_total": {"stop": 5, "length": 2}}."""
        ...

    def problem(self) -> str | None:
        """Why no request can be answered at present; None: all is well."""
        ...

    def close(self) -> None:
        """End all requests and threads."""
        ...


__all__ = ["Backend", "Busy", "Unavailable"]
