"""The media file and the caption of one sample, read from its tar by the offsets in the index."""

from __future__ import annotations

import json
from typing import Any

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.text_repair import is_utf16
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.formats.json_fields import kind_of
from chatbridge.datasets.tars.index import IndexRow, TarIndex
from chatbridge.datasets.tars.open_files import OpenFiles
from chatbridge.datasets.tars.sample_names import TEXTS, index_columns
from chatbridge.datasets.tars.scan import ABSENT, CUT_OFF, DANGLING, SPARSE

NEIGHBOURS = 1 << 16  # bytes between media and text up to which one read is cheaper than two


class TarMembers:
    """Reads members of tars.

    modality  which media file of a sample is read
    text      member with its caption: "txt", "json", or "auto": the txt, without one the json
    """

    def __init__(self, files: OpenFiles, modality: str, text: str):
        self.files, self.modality, self.text = files, modality, text
        self._columns = index_columns().names

    def row(self, shard: TarIndex, number: int) -> IndexRow:
        """The row of a sample in the index. raises DataError when the index was changed"""
        at, size = shard.place(number)
        content = self.files.read(shard.file, at, size)
        if len(content) < size or self.files.read(shard.file, 0, len(shard.header)) != shard.header:
            raise DataError(f"{shard.file}: was changed while it was in use; start again")
        return shard.row(content)

    def read(self, shard: TarIndex, row: IndexRow) -> tuple[bytes, bytes, str]:
        """The bytes of the media file and of the text, and what the text is; neighbours in the tar are read at once.

        raises   MediaError for a sample without one of them
        """
        kind = self._text_kind(row)
        media, text = self._columns.index(self.modality), self._columns.index(kind)
        if min(row.at[media], row.at[text]) < 0 or not row.size[media]:
            self._refuse(row, media)
            self._refuse(row, text)
        start = min(row.at[media], row.at[text])
        length = max(row.at[media] + row.size[media], row.at[text] + row.size[text]) - start
        if length > row.size[media] + row.size[text] + NEIGHBOURS:
            return self._member(shard, row, media), self._member(shard, row, text), kind
        content = self._bytes(shard, start, length)
        return _cut(shard, row, media, content, start), _cut(shard, row, text, content, start), kind

    def read_media(self, shard: TarIndex, row: IndexRow) -> bytes:
        """The bytes of the media file alone. raises MediaError for a sample without one"""
        media = self._columns.index(self.modality)
        if row.at[media] < 0 or not row.size[media]:
            self._refuse(row, media)
        return self._member(shard, row, media)

    def read_text(self, shard: TarIndex, row: IndexRow) -> tuple[bytes, str]:
        """The bytes of the text alone, and what it is. raises MediaError for a sample without a text"""
        kind = self._text_kind(row)
        text = self._columns.index(kind)
        if row.at[text] < 0:
            self._refuse(row, text)
        return self._member(shard, row, text), kind

    def _text_kind(self, row: IndexRow) -> str:
        if self.text != "auto":
            return self.text
        return "txt" if row.at[self._columns.index("txt")] != ABSENT else "json"

    def _member(self, shard: TarIndex, row: IndexRow, column: int) -> bytes:
        at = row.at[column]
        return _cut(shard, row, column, self._bytes(shard, at, row.size[column]), at)

    def _bytes(self, shard: TarIndex, at: int, size: int) -> bytes:
        try:
            return self.files.read(shard.tar, at, size)
        except OSError as error:
            raise MediaError(f"{shard.tar}: cannot be read: {error.strerror}") from None

    def _refuse(self, row: IndexRow, column: int) -> None:
        """raises   MediaError when a sample has no such member, or one whose bytes are not in one piece"""
        kind, at = self._columns[column], row.at[column]
        if at == ABSENT and kind in TEXTS:
            kinds = " or ".join(TEXTS if self.text == "auto" else (kind,))
            raise MediaError(f"the tar has no text of {key_of(row)} ({kinds})")
        if at == ABSENT:
            endings = ", ".join(MODALITIES.get(kind).endings.members)
            raise MediaError(f"the tar has no {kind} of {key_of(row)} ({endings})")
        if at == SPARSE:
            raise MediaError(f"the {kind} of {key_of(row)} is stored as a sparse file; pack the tar without --sparse")
        if at == DANGLING:
            raise MediaError(f"the {kind} of {key_of(row)} is a link to a file that is not in the tar")
        if at == CUT_OFF:
            raise MediaError(f"the tar breaks off inside the {kind} of {key_of(row)}")
        if row.size[column] == 0 and kind == self.modality:
            raise MediaError(f"the {kind} of {key_of(row)} is empty (0 bytes)")


def captions_in(content: bytes, kind: str, field: str) -> list[str]:
    """The texts of a txt, or of a field of a json. raises MediaError for anything else"""
    if is_utf16(content):
        raise MediaError(f"its {kind} is not UTF-8 text but UTF-16")
    try:
        text = content.decode("utf-8-sig")
        value: Any = json.loads(text).get(field) if kind == "json" else text
    except (ValueError, AttributeError, RecursionError):
        raise MediaError(f"its {kind} is not {'a JSON object' if kind == 'json' else 'UTF-8 text'}") from None
    texts = [value] if isinstance(value, str) else value
    wrong = next((text for text in texts if not isinstance(text, str)), None) if isinstance(texts, list) else texts
    if not texts or wrong is not None or not isinstance(texts, list):
        found = "nothing" if not texts or wrong is None else kind_of(wrong)
        raise MediaError(f"its json has no text in {field!r} but {found}")
    return texts


def key_of(row: IndexRow) -> str:
    """The key of a sample, for messages and names."""
    return row.key.decode("utf-8", "replace")


def _cut(shard: TarIndex, row: IndexRow, column: int, content: bytes, start: int) -> bytes:
    """One member out of bytes that begin at `start` of the tar."""
    at = row.at[column] - start
    part = content[at : at + row.size[column]]
    if len(part) < row.size[column]:
        raise MediaError(f"{shard.tar} breaks off inside the {shard.slots[column]} of {key_of(row)}")
    return part
