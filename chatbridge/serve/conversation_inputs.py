"""Conversations as callers write them, with their media read and decoded: the inputs of the encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.common.errors import MediaError, nearest
from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Drawing, Media, Part, Text, media_parts
from chatbridge.datasets.collate import collate
from chatbridge.processors.media_processor import Processor
from chatbridge.serve.message_inputs import check_message, parts_of
from chatbridge.serve.uploads.upload_parts import Attachment, DecodedMedia
from chatbridge.serve.uploads.upload_reader import UploadReader


class ConversationInputs:
    """Checks, reads and decodes what a model with these processors is asked. Any number of threads may use it.

    processors   modality -> processor with the limits of the chat
    reader       reads files, in processes of their own
    """

    def __init__(self, processors: Mapping[str, Processor], reader: UploadReader) -> None:
        self.processors, self.reader = processors, reader

    def check(self, conversation: Conversation) -> None:
        """raises TypeError for an invalid message, MediaError for a modality without a processor"""
        for message in conversation:
            check_message(message)
        for item in media_parts(conversation):
            self._require(item.modality)

    def attach(self, path: str | Path, modality: str | None = None) -> Attachment:
        """A file as typed, decoded parts of a turn; see `ChatEngine.attach`. raises MediaError"""
        if modality is not None:
            self._require(modality)
        return self.reader.attach(path, modality)

    def turn(self, items: Sequence[Any]) -> tuple[Part, ...]:
        """Text, files and data in memory as typed, decoded parts of a turn, see `message_inputs`.

        raises   MediaError for a file that cannot be read, TypeError for other types
        """
        return tuple(part for item in items for part in parts_of(item, self._media_of, self.processors))

    def decoded(self, conversation: Conversation) -> tuple[Conversation, dict[str, list[bytes]]]:
        """The conversation with its media as DecodedMedia, and modality -> digest of each of them. raises MediaError"""
        made = tuple(replace(one, parts=tuple(map(self._decoded_part, one.parts))) for one in conversation)
        digests: dict[str, list[bytes]] = {}
        for item in media_parts(made):
            assert isinstance(item.ref, DecodedMedia)
            digests.setdefault(item.modality, []).append(item.ref.digest)
        return made, digests

    def prompts(self, conversations: Sequence[Conversation], layout: Layout) -> Batch:
        """The prompts of checked conversations, on the CPU.

        raises   MediaError for a media item that cannot be read
        """
        samples = [Sample("chat", "chat", one, tuple(map(self._of, media_parts(one)))) for one in conversations]
        return collate(samples, layout, prompt=True)

    def of_image(self, image: Tensor) -> Tensor:
        """The input of the image encoder; image uint8[3, H, W]."""
        return self.processors["image"](image, None)

    def _of(self, item: Media) -> Tensor:
        """The input of its encoder. A separate process reads files; decoded media are not read again."""
        if isinstance(item.ref, DecodedMedia):
            return item.ref.tensor
        if isinstance(item.ref, Tensor):
            return self.processors[item.modality](item.ref, None)
        if not isinstance(item.ref, (str, Path, bytes)):
            accepted = "a path, the bytes of a file, or a tensor"
            raise TypeError(f"Media({item.modality!r}, ...) accepts {accepted}, found {type(item.ref).__name__}")
        return self.reader.read(item.modality, item.ref).tensor

    def _decoded_part(self, part: Part) -> Part:
        if isinstance(part, Text) or (media := part.image if isinstance(part, Drawing) else part) is None:
            return part
        return part if isinstance(media.ref, DecodedMedia) else replace(part, ref=DecodedMedia(self._of(media)))

    def _media_of(self, path: Path) -> tuple[Media, ...]:
        return self.attach(path).media

    def _require(self, modality: str) -> None:
        if modality not in self.processors:
            meant = nearest(modality, tuple(self.processors))
            hint = f"; did you mean {meant}?" if meant else ""
            accepted = ", ".join(self.processors) or "text only"
            raise MediaError(f"this model cannot process {modality}; it accepts {accepted}{hint}")


__all__ = ["ConversationInputs"]
