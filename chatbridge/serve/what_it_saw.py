"""What the model was given for a question: its media as the encoders read them, the prompt, and the counts.

All of it is plain values that a page can show; nothing of a file or a prompt is markup.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Media, media_parts
from chatbridge.experiment.prompt_segments import Segment, segments_of
from chatbridge.processors.media_source import name_of
from chatbridge.serve.context_length import FittedPrompt, fit_prompt
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.media_pictures.media_png import ReadMedia, about, media_png
from chatbridge.serve.media_pictures.media_preview import Preview
from chatbridge.serve.saved_conversations.stored_media import origins_of
from chatbridge.serve.session import ChatTurn, Session, conversation_of
from chatbridge.serve.uploads.upload_parts import Attachment, DecodedMedia


@dataclass(frozen=True)
class SeenMedia:
    """One media item of the prompt.

    about       "frames 3, 9, 14, 20 of 24 (from 0); float32[4, 3, 224, 224]"
    png         the frames that the encoder read, or the waveform above its mel spectrogram; None: it has no picture
    num_tokens  positions of the prompt
    is_new      it belongs to this question, not to an earlier turn
    """

    modality: str
    name: str
    about: str
    png: bytes | None
    num_tokens: int
    is_new: bool


@dataclass(frozen=True)
class PromptPiece:
    """A part of the prompt: the template's text, or "<image>" for a media item.

    num_tokens  its positions
    """

    text: str
    modality: str = ""
    num_tokens: int = 0


@dataclass(frozen=True)
class WhatItSaw:
    """counts   (what, how much) for display, in order
    notes    for the user, for example that the first turns were left out
    """

    media: tuple[SeenMedia, ...] = ()
    prompt: tuple[PromptPiece, ...] = ()
    counts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def prompt_text(self) -> str:
        """The whole prompt, a media item as <image x 32>, so that text that a person typed as <image> differs."""
        return "".join(f"<{one.modality} x {one.num_tokens}>" if one.modality else one.text for one in self.prompt)


def what_it_saw(engine: ChatEngine, session: Session, number: int = -1) -> WhatItSaw:
    """What the prompt of a turn's question consisted of; the model does not run.

    number   of the turn, from 0; negative ones from the end
    The pictures of earlier calls are kept as long as the session has their files.
    """
    if not session or not -len(session) <= number < len(session):
        return WhatItSaw()
    earlier, turn = session[: range(len(session))[number]], session[number]
    if turn.problem is not None:
        return WhatItSaw(counts=tuple(_counts(turn)), notes=(f"the model was not asked: {turn.problem}",))
    asked = (*conversation_of(earlier), *turn.before, turn.question)
    try:
        fitted = fit_prompt(asked, engine.layout, engine.model.language.max_positions, engine.generation.max_new_tokens)
    except ValueError as error:  # it does not fit, or this template cannot write it
        return WhatItSaw(notes=(str(error),))
    segments = segments_of(fitted.conversation, engine.layout, reply=True)
    pieces = tuple(_pieces(segments))
    media = tuple(_media(engine, session, fitted, turn, pieces))
    return WhatItSaw(media, pieces, tuple(_counts(turn, pieces)), fitted.notes)


def _pieces(segments: list[Segment]) -> Iterator[PromptPiece]:
    for one in segments:
        yield PromptPiece(one.text or f"<{one.modality}>", one.modality, one.length)


def _media(
    engine: ChatEngine, session: Session, fitted: FittedPrompt, turn: ChatTurn, pieces: tuple[PromptPiece, ...]
) -> Iterator[SeenMedia]:
    origins = origins_of(attachment for one in session for attachment in one.attached)
    items, places = tuple(media_parts(fitted.conversation)), [piece for piece in pieces if piece.modality]
    first_new = len(items) - len(turn.question.media)
    for number, (item, place) in enumerate(zip(items, places, strict=True)):
        read = read_media(engine, item, origins.get(id(item.ref)))
        name = _name_of(item, origins.get(id(item.ref)))
        yield SeenMedia(item.modality, name, about(read), _png(item, read), place.num_tokens, number >= first_new)


def read_media(engine: ChatEngine, item: Media, origin: Attachment | None) -> ReadMedia:
    """An item with the input of its encoder, and the frames or clips that were chosen."""
    processor = engine.processors[item.modality]
    if isinstance(item.ref, DecodedMedia):
        preview = _preview(engine, item.modality, item.ref, origin)
        tensor: Tensor | None = item.ref.tensor
        return ReadMedia(item.modality, item.ref.tensor, processor, tensor, preview.chosen, preview.wave)
    try:
        if isinstance(item.ref, Tensor):
            tensor = processor(item.ref, None)
        else:
            tensor = engine.reader.read(item.modality, item.ref).tensor
    except MediaError:
        tensor = None
    return ReadMedia(item.modality, item.ref if isinstance(item.ref, Tensor) else b"", processor, tensor)


class _Kept:
    """Values that belong to decoded media, dropped together with them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: WeakKeyDictionary[DecodedMedia, Any] = WeakKeyDictionary()

    def get(self, key: DecodedMedia) -> Any:
        with self._lock:
            return self._values.get(key)

    def put(self, key: DecodedMedia, value: Any) -> None:
        with self._lock:
            self._values[key] = value


_previews, _pngs = _Kept(), _Kept()


def _preview(engine: ChatEngine, modality: str, item: DecodedMedia, origin: Attachment | None) -> Preview:
    """Read in a process of its own, once. A file that is gone, or cannot be read again, has an empty one."""
    found = _previews.get(item)
    if found is None:
        found = Preview()
        if origin is not None and Path(origin.path).exists():
            with suppress(MediaError):
                found = engine.reader.preview(modality, origin.path)
        _previews.put(item, found)
    return found


def _png(item: Media, read: ReadMedia) -> bytes | None:
    if not isinstance(item.ref, DecodedMedia):
        return media_png(read)
    found = _pngs.get(item.ref)
    if found is None and (found := media_png(read)) is not None:
        _pngs.put(item.ref, found)
    return found


def _name_of(item: Media, origin: Attachment | None) -> str:
    if origin is not None:
        return origin.address or origin.path.name
    return "drawn" if isinstance(item.ref, Tensor) else name_of(item.ref)


def _counts(turn: ChatTurn, pieces: tuple[PromptPiece, ...] = ()) -> Iterator[tuple[str, str]]:
    usage, timing = turn.usage, turn.timing
    num_prompt = usage.prompt or sum(one.num_tokens for one in pieces)
    if num_prompt:
        yield "prompt", f"{num_prompt:,} tokens"
        yield "of media", f"{sum(one.num_tokens for one in pieces if one.modality):,} tokens"
    if usage.prompt:
        yield "read before", f"{usage.cached:,} tokens"
        yield "encoded now", f"{usage.encoded:,} media items"
    if turn.num_tokens:
        yield "answer", f"{turn.num_tokens:,} tokens"
    if timing.waited_s >= 0.01:
        yield "waited", f"{timing.waited_s:.2f} s"
    if timing.first_token_s is not None:
        yield "time to first token", f"{timing.first_token_s:.2f} s"
    if (speed := timing.tokens_per_s(turn.num_tokens)) is not None:
        yield "speed", f"{speed:.1f} tokens/s"
    if timing.total_s:
        yield "in total", f"{timing.total_s:.2f} s"


__all__ = ["PromptPiece", "SeenMedia", "WhatItSaw", "read_media", "what_it_saw"]
