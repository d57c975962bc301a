"""Replies of judges by request, so that no request is paid twice, by whatever file or process it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import file_lock, replace_text


@dataclass(frozen=True)
class Reply:
    """A judge's reply.

    content         its text, "" where the judge refused
    finish_reason   as the server gives it: stop, length, content_filter ...
    prompt_tokens, completion_tokens   as the server counts them; None where it does not
    """

    content: str
    model: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def request_key(server: str, request: Mapping[str, Any]) -> str:
    """The name of a request: equal for the same server, model, messages and parameters."""
    text = json.dumps({"server": server, **request}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class ReplyCache:
    """A folder with one file per reply. Files are written whole; a damaged one counts as absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply to a request, or None."""
        try:
            found = json.loads(self._path(key).read_text(encoding="utf-8"))["reply"]
            reply = Reply(**found)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return reply if isinstance(reply.content, str) else None

    def fetch(
        self,
        key: str,
        request: Mapping[str, Any],
        ask: Callable[[], Reply],
        is_usable: Callable[[Reply], bool] = lambda reply: True,
    ) -> tuple[Reply, bool]:
        """The reply to a request, and whether it was in the cache. Processes that need the same reply wait for the one
        that asks.

        ask         makes the request
        is_usable   whether a cached reply may be used; else it is replaced
        """
        if (found := self.get(key)) is not None and is_usable(found):
            return found, True
        with file_lock(self._path(key)):
            if (found := self.get(key)) is not None and is_usable(found):  # another process asked while this one waited
                return found, True
            reply = ask()
            content = {"request": dict(request), "reply": asdict(reply)}
            replace_text(self._path(key), json.dumps(content, ensure_ascii=False, indent=1))
        return reply, False

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
