"""A hash of source files that comments, docstrings and the layout of the code do not change."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from chatbridge.common.safe_files import replace_text

PASSED = ("ctx", "kind", "type_comment")  # fields of nodes that follow from others
KEPT, MOST_KEPT = "source_digest.json", 15  # name of the file with known digests, and how many earlier ones stay in it
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=8)
def source_digest(folders: tuple[Path, ...], without: Path | None = None) -> str:
    """A hash of all .py files below the folders, by their names within them: the same on every machine and Python.

    It is kept beside the bytecode, since parsing ChatBridge takes a second.
    without   a folder whose files do not count
    """
    files = {f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
             for folder in folders for path in sorted(folder.rglob("*.py"))
             if without is None or not path.is_relative_to(without)}  # fmt: skip
    content = hashlib.sha256("".join(f"{name} {_sha256(text)}\n" for name, text in sorted(files.items())).encode())
    cache = folders[0] / "__pycache__" / KEPT
    known = _read(cache)
    if found := known.get(content.hexdigest()):
        return found
    parsed = (f"{name} {code_digest(text)}\n" for name, text in sorted(files.items()))
    digest = _sha256("".join(parsed).encode())
    _write(cache, {**dict(list(known.items())[-MOST_KEPT:]), content.hexdigest(): digest})
    return digest


def _read(cache: Path) -> dict[str, str]:
    """sha256 of sources -> their digest, as far as the file can be read."""
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: one for key, one in found.items() if isinstance(one, str)} if isinstance(found, dict) else {}


def _write(cache: Path, known: dict[str, str]) -> None:
    """Write the file where Python may write bytecode; a package that cannot be written to is parsed each time."""
    if sys.dont_write_bytecode:
        return
    with suppress(OSError):
        cache.parent.mkdir(exist_ok=True)
        replace_text(cache, json.dumps(known))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def code_digest(source: bytes) -> str:
    """A hash of one file; that of its bytes where it is not the code of this version of Python."""
    try:
        words: Iterable[str] = source_words(ast.parse(source))
        return _sha256("\n".join(words).encode("utf-8", "surrogatepass"))
    except (SyntaxError, ValueError, RecursionError):
        return _sha256(source)


def source_words(node: ast.AST) -> Iterator[str]:
    """The nodes in order with what they hold. Empty fields are left out: versions of Python differ by them."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if name in PASSED or value is None or value == []:
            continue
        yield name
        entries = value if isinstance(value, list) else [value]
        if name == "body" and isinstance(node, DOCUMENTED) and _is_text(entries[0]):
            entries = entries[1:]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 has empty texts in f-strings, others do not
            entries = [one for one in entries if not (isinstance(one, ast.Constant) and one.value == "")]
        for entry in entries:
            if isinstance(entry, ast.AST):
                yield from source_words(entry)
            else:
                yield repr(entry)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
