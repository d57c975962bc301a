"""The keys that clients show: read from a file or the environment, compared in constant time."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.log import get_logger

logger = get_logger(__name__)
VARIABLE = "CHATBRIDGE_API_KEY"
SHORTEST = 16  # characters


class ApiKeys:
    """Accepted keys; without any, everybody is accepted. Only their hashes are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = tuple(_hash(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def accept(self, key: str) -> bool:
        """Whether a key is one of them. The time it takes does not depend on which one, or on how much of it fits."""
        shown = _hash(key)
        found = [hmac.compare_digest(shown, one) for one in self._hashes]  # all of them, also after one that fits
        return any(found)


def read_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> ApiKeys:
    """The keys of a file, one per line, and those of CHATBRIDGE_API_KEY, separated by commas.

    raises   ConfigError for a file that cannot be read or has no key, and for keys that are short or not in ASCII
    """
    found = [(VARIABLE, key.strip()) for key in environment.get(VARIABLE, "").split(",") if key.strip()]
    if file is not None:
        found += [(f"{file}, line {number}", key) for number, key in _lines(file)]
    problems = [Problem(where, reason, hint=_advice()) for where, key in found if (reason := _fault(key))]
    if problems:
        raise ConfigError(problems)
    return ApiKeys(key for _, key in found)


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8")
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError([Problem("--api-key-file", f"{file} cannot be read: {reason}", hint=_advice())]) from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("%s can be read by other users of this machine; run: chmod 600 %s", file, file)
    keys = [(at, line.strip()) for at, line in enumerate(text.splitlines(), 1)]
    keys = [(at, key) for at, key in keys if key and not key.startswith("#")]
    if not keys:
        raise ConfigError([Problem("--api-key-file", f"{file} has no key", hint=_advice())])
    return keys


def _fault(key: str) -> str | None:
    if len(key) < SHORTEST:
        return f"the key has {len(key)} characters, at least {SHORTEST} are needed"
    return (
        None if key.isascii() and key.isprintable() and " " not in key else "the key has blanks or unusual characters"
    )


def _advice() -> str:
    return "a file with one key per line; make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def _hash(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


__all__ = ["VARIABLE", "ApiKeys", "read_keys"]
