"""Media inside a request: data: URLs, and the base64 of `input_audio`."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from chatbridge.common.errors import nearest
from chatbridge.serve.media_sources.content import Content
from chatbridge.serve.media_sources.content_types import main_type
from chatbridge.serve.media_sources.source_error import SourceError, shortened

WHITESPACE = " \t\r\n\f"
ALPHABET = bytes.maketrans(b"-_", b"+/")  # of URLs -> the usual one
PIECE = 1 << 18  # characters that are decoded at once, well below a millisecond
LONGEST_HEAD = 500  # characters before the comma of a data URL
FORMATS = {  # of `input_audio` -> the type
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/opus",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "webm": "audio/webm",
}


def data_url(url: str, max_bytes: int) -> Content:
    """The content of `data:[type][;parameters][;base64],data` (RFC 2397). raises SourceError"""
    head, comma, data = url.partition(",")
    if not comma or len(head) > LONGEST_HEAD:
        raise SourceError(
            400, "the data URL has no comma between its type and its data; write data:image/png;base64,..."
        )
    declared, *parameters = [part.strip().lower() for part in head[len("data:") :].split(";")]
    shown = f"data URL ({shortened(declared or 'no type')})"
    if "base64" in parameters:
        chunks, length = from_base64(data, shown, max_bytes)
        return Content(chunks, shown, main_type(declared), "", length)
    _check_length(len(data) // 3, shown, max_bytes)
    try:
        content = unquote_to_bytes(data)
    except UnicodeEncodeError:
        raise SourceError(400, f"{shown}: it has half of a UTF-16 pair, which is not a character") from None
    return Content(iter((content,)), shown, main_type(declared), "", len(content))


def audio_data(data: str, format_: str, max_bytes: int) -> Content:
    """The content of `{"data": base64, "format": "wav"}`. raises SourceError"""
    type_ = FORMATS.get(format_.lower())
    if type_ is None:
        guess = nearest(format_, FORMATS)
        hint = f"; did you mean {guess}?" if guess else ""
        accepted = f"it is one of {', '.join(FORMATS)}"
        raise SourceError(400, f"input_audio.format is {shortened(format_)!r}; {accepted}{hint}")
    shown = f"input_audio ({format_.lower()})"
    chunks, length = from_base64(data, shown, max_bytes)
    return Content(chunks, shown, type_, "", length)


def from_base64(text: str, shown: str, max_bytes: int) -> tuple[Iterator[bytes], int]:
    """The decoded bytes in pieces, and their number. Line breaks, and the padding at the end, may be there or not; the
    alphabet may be that of URLs. Pieces, because decoding a video in one step would hold up all other threads.

    raises   SourceError for a text that is cut off or not ASCII, and before decoding for more than max_bytes; while
             the pieces are read, for other characters
    """
    if not text.isascii():
        raise SourceError(400, f"{shown}: the base64 holds a character that is not ASCII")
    if "%" in text:  # + / = were percent-encoded
        text = unquote_to_bytes(text).decode("latin-1")
    text = text.rstrip(f"={WHITESPACE}")
    count = len(text) - sum(map(text.count, WHITESPACE))
    _check_length(count * 3 // 4, shown, max_bytes)
    if count % 4 == 1:
        raise _not_valid(shown, "its length fits no data")
    return _decoded(text, shown), count * 3 // 4


def _decoded(text: str, shown: str) -> Iterator[bytes]:
    rest = b""
    for at in range(0, len(text), PIECE):
        piece = rest + text[at : at + PIECE].encode("latin-1").translate(ALPHABET, WHITESPACE.encode())
        cut = len(piece) // 4 * 4
        yield _bytes_of(piece[:cut], shown)
        rest = piece[cut:]
    yield _bytes_of(rest + b"=" * (-len(rest) % 4), shown)


def _bytes_of(piece: bytes, shown: str) -> bytes:
    if b"=" in piece[:-2]:
        raise _not_valid(shown, "padding before its end")
    try:
        return binascii.a2b_base64(piece, strict_mode=True)
    except binascii.Error as error:
        raise _not_valid(shown, str(error)) from None


def _not_valid(shown: str, reason: str) -> SourceError:
    return SourceError(400, f"{shown}: the base64 is not valid ({reason}); is it cut off?")


def _check_length(num_bytes: int, shown: str, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise too_large(shown, num_bytes, max_bytes)


def too_large(shown: str, num_bytes: int | None, max_bytes: int) -> SourceError:
    """The error of an item beyond the limit of one file."""
    found = f"{num_bytes / 1e6:,.1f} MB" if num_bytes is not None else "larger"
    return SourceError(413, f"{shown}: {found}, at most {max_bytes / 1e6:g} MB are accepted; send a smaller file")
