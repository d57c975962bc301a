"""Answers in the shape of OpenAI's chat completions, whole and in chunks."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from chatbridge.common.log import get_logger
from chatbridge.conversation.messages import Drawing, Part, Text
from chatbridge.processors.png_file import png_of
from chatbridge.serve.answer import Answer
from chatbridge.serve.request import TokenLogprob, Usage

logger = get_logger(__name__)
FINISHES = {"stop": "stop", "length": "length", "time": "length"}


@dataclass(frozen=True)
class Head:
    """What all chunks of a completion share."""

    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def of(self, kind: str, **content: Any) -> dict[str, Any]:
        """The object of a response; kind: chat.completion or chat.completion.chunk."""
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"system_fingerprint": self.fingerprint} | content


def completion(head: Head, answers: Sequence[Answer], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The response with complete answers, one choice each.

    notes   messages for the user, in addition to those of the answers; a key of their own, which OpenAI's API lacks
    """
    choices = [
        {
            "index": at,
            "message": {"role": "assistant", "content": content_of(answer.parts), "refusal": None},
            "logprobs": logprobs_json(answer.logprobs) if answer.logprobs else None,
            "finish_reason": finish_of(answer),
        }
        for at, answer in enumerate(answers)
    ]
    found = head.of("chat.completion", choices=choices, usage=usage_json([one.usage for one in answers]))
    all_notes = notes_of(answers, notes)
    return found | ({"notes": all_notes} if all_notes else {})


def content_of(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """The text; or, with drawn images, parts in order, which a client may send back as they are."""
    if not any(isinstance(part, Drawing) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, Text))
    return [
        drawing_json(part) if isinstance(part, Drawing) else {"type": "text", "text": part.text}
        for part in parts
        if isinstance(part, (Text, Drawing))
    ]


def drawing_json(drawing: Drawing) -> dict[str, Any]:
    """A drawn image as a PNG in a data URL, with its caption; without an image, the caption as text."""
    if not isinstance(drawing.ref, Tensor):
        return {"type": "text", "text": f"[drawing: {drawing.caption}]"}
    url = f"data:image/png;base64,{base64.b64encode(png_of(drawing.ref)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}, "caption": drawing.caption}


def finish_of(answer: Answer) -> str:
    """stop or length; a time limit is a length too."""
    return FINISHES[answer.finish or ("length" if answer.is_cut else "stop")]


def notes_of(answers: Sequence[Answer], more: Sequence[str] = ()) -> list[str]:
    """Messages for the user, each once."""
    return list(dict.fromkeys([*more, *(note for answer in answers for note in answer.notes)]))


def usage_json(found: Sequence[Usage]) -> dict[str, Any]:
    """Tokens of a request: its prompt counts once, however many answers it has."""
    first, answered = found[0], sum(one.answer for one in found)
    return {
        "prompt_tokens": first.prompt,
        "completion_tokens": answered,
        "total_tokens": first.prompt + answered,
        "prompt_tokens_details": {"cached_tokens": first.cached, "media_tokens": first.media},
    }


def logprobs_json(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The log-probabilities of tokens."""
    return {
        "content": [
            _logprob(one.text, one.logprob) | {"top_logprobs": [_logprob(text, value) for _, text, value in one.top]}
            for one in tokens
        ],
        "refusal": None,
    }


def _logprob(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(value, -9999.0), "bytes": list(text.encode("utf-8", "replace"))}


class Delta:
    """What of one growing answer was not sent yet, as `delta` objects of its choice.

    Text is sent as far as it cannot change: blanks at the end of an unfinished answer may belong to a stop string.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self._part, self._length = 0, 0  # parts sent whole, and characters sent of the next one
        self._num_logprobs = 0
        self._has_begun = False

    def choices(self, answer: Answer) -> Iterator[dict[str, Any]]:
        """The choices of the next chunks; the last one of a complete answer has its finish_reason."""
        if not self._has_begun:
            self._has_begun = True
            yield self._choice({"role": "assistant", "content": "", "refusal": None})
        deltas = list(self._deltas(answer))
        new = answer.logprobs[self._num_logprobs :]
        if new and not deltas and answer.is_done:
            deltas = [{"content": ""}]
        for at, delta in enumerate(deltas):
            if at == 0 and new:
                self._num_logprobs = len(answer.logprobs)
                yield self._choice(delta, logprobs=logprobs_json(new))
            else:
                yield self._choice(delta)
        if answer.is_done:
            yield self._choice({}, finish=finish_of(answer))

    def _deltas(self, answer: Answer) -> Iterator[dict[str, Any]]:
        while self._part < len(answer.parts):
            part = answer.parts[self._part]
            is_last = self._part == len(answer.parts) - 1
            is_whole = answer.is_done or not is_last
            if isinstance(part, Drawing):
                yield {"images": [drawing_json(part)]}
            elif isinstance(part, Text):
                text = part.text if is_whole else part.text.rstrip()
                if len(text) > self._length:
                    yield {"content": text[self._length :]}
                    self._length = len(text)
            if not is_whole and isinstance(part, Text):
                return
            self._part, self._length = self._part + 1, 0

    def _choice(
        self, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


__all__ = ["Delta", "Head", "completion", "content_of", "notes_of", "usage_json"]
