"""The media of a conversation, decoded in reading order.

If audio is missing, a note in the prompt says so, or the sample is not used; silence is never substituted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from chatbridge.common.errors import MediaError, nearest
from chatbridge.common.types import Features
from chatbridge.conversation.messages import Conversation, Media, Message, Part, Text, media_of, media_parts
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import Processor
from chatbridge.processors.media_source import NoAudio, Rolled, SideBySide

DEFAULTS = Limits()


@dataclass(frozen=True)
class Decoded:
    """A conversation and its media in reading order.

    without_sound  why the audio is missing and a note replaces it; None if all media are there
    """

    conversation: Conversation
    media: tuple[Tensor | Features, ...]
    without_sound: str | None = None


def decode(
    conversation: Conversation, processors: Mapping[str, Processor], rng: np.random.Generator | None = None
) -> Decoded:
    """The conversation with all media decoded, in reading order.

    rng      of random frames, clips and crops in training; None: the fixed choice of evaluation
    The audio of a video may be missing: its file does not exist, or has no audio track. With `missing_sound: say` only
    the video is used, and `sound_note` replaces the audio in the text.
    raises   MediaError for media that cannot be read, or have no processor
    """
    has_video = any(part.modality == "video" for part in media_parts(conversation))
    decoder = _ConversationDecoder(processors, rng, has_video)
    messages = tuple(decoder.message(message) for message in conversation)
    return Decoded(messages, tuple(decoder.media), decoder.without_sound)


def limits_of(processors: Mapping[str, Processor]) -> Limits:
    """The limits of a run, the same for all its processors."""
    found = (getattr(processor, "limits", None) for processor in processors.values())
    return next((limits for limits in found if isinstance(limits, Limits)), DEFAULTS)


class _ConversationDecoder:
    """Decodes the media of one conversation."""

    def __init__(self, processors: Mapping[str, Processor], rng: np.random.Generator | None, has_video: bool):
        self.processors, self.rng, self.has_video = processors, rng, has_video
        self.media: list[Tensor | Features] = []
        self.without_sound: str | None = None

    def message(self, message: Message) -> Message:
        """The message after decoding its media; with a note for missing audio."""
        parts = [self._part(part) for part in message.parts]
        if all(new is old for new, old in zip(parts, message.parts)):
            return message
        return replace(message, parts=_spaced(parts, message.parts))

    def _part(self, part: Part) -> Part:
        """The part itself after decoding its media item, or a note if its audio is missing."""
        item = media_of(part)
        return part if item is None else self._item(item) or part

    def _item(self, part: Media) -> Text | None:
        if part.modality not in self.processors:
            known = ", ".join(sorted(self.processors)) or "none"
            meant = nearest(part.modality, self.processors)
            advice = f"; did you mean {meant}?" if meant else ""
            raise MediaError(f"the model does not take {part.modality}; its modalities: {known}{advice}")
        try:
            if part.modality == "audio" and _is_missing(part.ref):
                raise NoAudio(f"{part.ref}: no such file")
            processor, ref = self.processors[part.modality], part.ref
            if isinstance(ref, SideBySide) and not getattr(processor, "reads_pairs", False):
                raise MediaError(f"{ref}: this image encoder takes one file per image; set pair: apart")
            read: Any = processor
            self.media.append(read(ref, self.rng))
        except NoAudio as error:
            limits = limits_of({part.modality: self.processors[part.modality]})
            if not self.has_video or limits.missing_sound == "refuse":
                raise
            self.without_sound = str(error)
            return Text(limits.sound_note)
        return None


def _spaced(parts: list[Part], old: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts with each new note joined to the text beside it, a space between them."""
    found: list[Part] = []
    note_before = False
    for part, was in zip(parts, old, strict=True):
        is_note = part is not was
        if isinstance(part, Text) and found and isinstance(found[-1], Text) and (is_note or note_before):
            text = found[-1].text
            gap = "" if not text or text[-1].isspace() or not part.text or part.text[0].isspace() else " "
            found[-1] = Text(text + gap + part.text)
        else:
            found.append(part)
        note_before = is_note
    return tuple(found)


def _is_missing(ref: object) -> bool:
    ref = ref.ref if isinstance(ref, Rolled) else ref
    try:
        return isinstance(ref, (str, Path)) and not Path(ref).is_file()  # a folder of frames is not audio
    except OSError:  # the processor reports what is wrong with the name
        return False
