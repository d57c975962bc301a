"""Errors as OpenAI's API reports them: a status, and {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import Response

from chatbridge.common.environment import hidden
from chatbridge.common.errors import MediaError
from chatbridge.common.log import get_logger
from chatbridge.serve.backend import Busy, Unavailable
from chatbridge.serve.context_length import NoAnswer, TooLong

logger = get_logger(__name__)
CLIENT_GONE = 499  # as nginx logs a client that closed its connection; nobody receives it
MOST_FAULTS = 50  # that one response names
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Fault:
    """One mistake in a request: the parameter, what arrived and what is accepted, and a word for programs."""

    param: str | None
    message: str
    code: str | None = None


class ApiError(Exception):
    """A refusal with its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @classmethod
    def of_faults(cls, faults: Sequence[Fault]) -> ApiError:
        """All mistakes of one request; the parameter and the word are those of the first."""
        lines = [f"{one.param}: {one.message}" if one.param else one.message for one in faults[:MOST_FAULTS]]
        lines += [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        text = lines[0] if len(lines) == 1 else f"{len(faults)} problems\n" + "\n".join(lines)
        return cls(400, text, faults[0].param, faults[0].code or "invalid_value")

    @property
    def content(self) -> dict[str, Any]:
        """The body of its response."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        text = hidden(self.message)
        return {"error": {"message": text, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        return json_response(self.content, self.status, self.headers)


def json_bytes(content: Any) -> bytes:
    """JSON in UTF-8. Lone halves of UTF-16 pairs, which a request may have, become question marks."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(content), status, dict(headers or {}), media_type="application/json")


def error_of(error: BaseException, request_id: str, is_of_request: bool = False) -> ApiError:
    """The refusal for an exception. What is nobody's known mistake is logged, and reported without its text.

    is_of_request   it was raised while the request was checked, so that a ValueError is a mistake of the request
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MediaError):
        status, code = getattr(error, "status", 400), getattr(error, "code", "invalid_media")
        return ApiError(status, str(error), getattr(error, "param", None), code)
    if isinstance(error, TooLong):
        return ApiError(400, str(error), "messages", "context_length_exceeded")
    if isinstance(error, NoAnswer):
        return ApiError(400, str(error), "messages", "invalid_value")
    if isinstance(error, Busy):
        retry = {"Retry-After": str(max(1, round(error.retry_s)))}
        return ApiError(429, str(error), code="rate_limit_exceeded", headers=retry)
    if isinstance(error, Unavailable):
        headers = {"Retry-After": "5"} if error.status == 503 else {}
        return ApiError(error.status, str(error), code="unavailable", headers=headers)
    if isinstance(error, ValueError) and is_of_request:
        return ApiError(400, str(error), code="invalid_value")
    logger.error("request %s failed", request_id, exc_info=error)
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        text = "the model ran out of memory; ask again later, or with fewer or shorter media"
        return ApiError(503, text, code="out_of_memory", headers={"Retry-After": "5"})
    text = f"the model failed ({type(error).__name__}); the log of the server has the details of request {request_id}"
    return ApiError(500, text, code="internal_error")


__all__ = ["CLIENT_GONE", "ApiError", "Fault", "error_of", "json_bytes", "json_response"]
