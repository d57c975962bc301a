"""Media inside a request: data: URLs, and the base64 of `input_audio`."""

from __future__ import annotations

import binascii
from urllib.parse import unquote_to_bytes

from chatbridge.common.errors import nearest
from chatbridge.serve.media_sources.content import Content
from chatbridge.serve.media_sources.content_types import main_type
from chatbridge.serve.media_sources.source_error import SourceError, shortened

WHITESPACE = str.maketrans("", "", " \t\r\n\f")
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
        content = from_base64(data, shown, max_bytes)
    else:
        _check_length(len(data) // 3, shown, max_bytes)
        content = unquote_to_bytes(data)
    return Content(iter((content,)), shown, main_type(declared), "", len(content))


def audio_data(data: str, format_: str, max_bytes: int) -> Content:
    """The content of `{"data": base64, "format": "wav"}`. raises SourceError"""
    type_ = FORMATS.get(format_.lower())
    if type_ is None:
        guess = nearest(format_, FORMATS)
        hint = f"; did you mean {guess}?" if guess else ""
        accepted = f"it is one of {', '.join(FORMATS)}"
        raise SourceError(400, f"input_audio.format is {shortened(format_)!r}; {accepted}{hint}")
    content = from_base64(data, f"input_audio ({format_.lower()})", max_bytes)
    return Content(iter((content,)), f"input_audio ({format_.lower()})", type_, "", len(content))


def from_base64(text: str, shown: str, max_bytes: int) -> bytes:
    """Decoded bytes. Line breaks, and the end's padding, may be missing or present; the alphabet may be that of URLs.

    raises   SourceError for other characters, and before decoding for more than max_bytes
    """
    if not text.isascii():
        raise SourceError(400, f"{shown}: the base64 holds a character that is not ASCII")
    if len(text) > 2 * max_bytes + 1024:  # also with a line break after every few characters
        _check_length(len(text) * 3 // 4, shown, max_bytes)
    text = text.translate(WHITESPACE)
    if "%" in text:  # a base64 whose + / = were percent-encoded
        text = unquote_to_bytes(text).decode("latin-1")
    text = text.rstrip("=")
    _check_length(len(text) * 3 // 4, shown, max_bytes)
    if "-" in text or "_" in text:
        text = text.replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64((text + "=" * (-len(text) % 4)).encode("latin-1"), strict_mode=True)
    except binascii.Error as error:
        raise SourceError(400, f"{shown}: the base64 is not valid ({error}); is it cut off?") from None


def _check_length(num_bytes: int, shown: str, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise too_large(shown, num_bytes, max_bytes)


def too_large(shown: str, num_bytes: int | None, max_bytes: int) -> SourceError:
    """The error of an item beyond the limit of one file."""
    found = f"{num_bytes / 1e6:,.1f} MB" if num_bytes is not None else "larger"
    return SourceError(413, f"{shown}: {found}, at most {max_bytes / 1e6:g} MB are accepted; send a smaller file")
