"""Values that a configuration takes from the environment: used, but never written.

`${oc.env:S3_KEY}` may be a secret. Everything that a run writes or prints (resolved.yaml, manifest.json, logs,
messages, the failure log) contains the reference instead of the value.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, cast

NAME = re.compile(r"oc\.env:\s*([^\s,{}]+)")
SHORTEST = 4  # characters; shorter values occur within ordinary text and are hidden only at their own keys
LONG = 8  # values from this length on are also hidden inside longer words and other settings
DIGEST_BYTES = 4  # enough to detect a change, too few to confirm a guessed secret

_known: dict[str, str] = {}  # value -> reference, for every variable that a configuration of this process uses


class Reference(str):
    """Text such as `${oc.env:KEY}` that carries its value without showing it."""

    value: Any

    @classmethod
    def of(cls, text: str, value: Any) -> Reference:
        found = cls(text)
        found.value = value
        return found

    def digest(self, salt: str) -> str:
        return hashlib.scrypt(
            str(self.value).encode(errors="surrogateescape"), salt=salt.encode(), n=2**12, r=8, p=1, dklen=DIGEST_BYTES
        ).hex()


def note_variables(text: str) -> None:
    """Record the values of the variables that a text of the configuration refers to."""
    for name in NAME.findall(text):
        if value := os.environ.get(name):
            _known[value] = f"${{oc.env:{name}}}"


def hidden(text: str, shortest: int = SHORTEST) -> str:
    """Return the text with values from the environment replaced by references."""
    for value in sorted(_known, key=len, reverse=True):
        if len(value) >= shortest and value in text:
            text = _replaced(text, value)
    return text


def _replaced(text: str, value: str) -> str:
    """Replace a short value only where it is a whole word: `here` must not change `there`."""
    if len(value) >= LONG:
        return text.replace(value, _known[value])
    return re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", lambda _: _known[value], text)


def hidden_in(value: Any, shortest: int = SHORTEST) -> Any:
    """Apply `hidden` to every text inside plain values, keys included."""
    if isinstance(value, Mapping):
        return {hidden_in(key, shortest): hidden_in(item, shortest) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hidden_in(item, shortest) for item in value]
    if isinstance(value, str) and not isinstance(value, Reference) and (found := hidden(value, shortest)) != value:
        return Reference.of(found, value)
    return value


@contextmanager
def hidden_output() -> Iterator[None]:
    """Print references instead of values from the environment within the context."""
    with redirect_stdout(cast(Any, _Hiding(sys.stdout))), redirect_stderr(cast(Any, _Hiding(sys.stderr))):
        yield


def hide_output() -> None:
    """Do the same until the process ends, for an entry point: tracebacks included."""
    sys.stdout, sys.stderr = cast(Any, _Hiding(sys.stdout)), cast(Any, _Hiding(sys.stderr))


class _Hiding:
    """A stream that applies `hidden` to its text."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(hidden(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def with_references(settings: Any, references: Mapping[str, str], path: str = "") -> Any:
    """Return plain settings with references in place of values from the environment.

    references   path -> text, from `merge.load` (Origins.references)
    """
    if path in references and not isinstance(settings, Reference):
        return Reference.of(references[path], settings)
    if isinstance(settings, Mapping):
        return {
            key: with_references(item, references, f"{path}.{key}" if path else str(key))
            for key, item in settings.items()
        }
    if isinstance(settings, (list, tuple)):
        return [with_references(item, references, f"{path}[{at}]") for at, item in enumerate(settings)]
    return hidden_in(settings, LONG) if references else settings


def references_in(settings: Any, path: str = "") -> Iterator[tuple[str, Reference]]:
    """Yield path and reference of every value in `with_references` that comes from the environment."""
    if isinstance(settings, Reference):
        yield path, settings
    elif isinstance(settings, Mapping):
        for key, item in settings.items():
            yield from references_in(item, f"{path}.{key}" if path else str(key))
    elif isinstance(settings, list):
        for at, item in enumerate(settings):
            yield from references_in(item, f"{path}[{at}]")


def digests(settings: Any) -> dict[str, dict[str, str]]:
    """Return path -> reference, salt and short digest, which later show whether a value changed."""
    found = {}
    for path, reference in references_in(settings):
        salt = secrets.token_hex(8)
        found[path] = {"reference": str(reference), "salt": salt, "digest": reference.digest(salt)}
    return found


def changed(then: Mapping[str, Any], settings: Any) -> list[tuple[str, str]]:
    """Return path and reference of values that changed since `digests` was called."""
    found = []
    for path, reference in references_in(settings):
        one = then.get(path)
        one = one if isinstance(one, dict) else {}
        is_same = one.get("reference") == reference
        if is_same and reference.digest(str(one.get("salt"))) != one.get("digest"):
            found.append((path, str(reference)))
    return found
