"""A reference that cannot be used: the message for the user, and the HTTP status it means."""

from __future__ import annotations

from chatbridge.common.errors import MediaError

LONGEST_SHOWN = 200  # characters of a reference in a message
CODES = {
    400: "invalid_media",
    403: "media_not_allowed",
    404: "media_not_found",
    408: "request_ended",
    413: "media_too_large",
    415: "media_type_mismatch",
    502: "media_unreachable",
    503: "media_busy",
    504: "media_timeout",
    507: "media_no_space",
}


class SourceError(MediaError):
    """A reference of a request that cannot be used.

    The message never holds a query string, user info or the data itself, so it may be logged.

    status   400 malformed, 403 not allowed here, 404 no such file, 408 the request ended, 413 too large, 415 of another
             type, 502 the other server failed, 503 too many downloads, 504 too slow, 507 no space to store it
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def code(self) -> str:
        """The status as a word for programs."""
        return CODES[self.status]


def shortened(text: str) -> str:
    """A part of a reference for a message."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."
