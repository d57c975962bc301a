"""A hash of source files that comments, docstrings and the layout of the code do not change."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

PASSED = ("ctx", "kind", "type_comment")  # fields of nodes that follow from others
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=8)
def source_digest(folders: tuple[Path, ...], without: Path | None = None) -> str:
    """A hash of all .py files below the folders, by their names within them: the same on every machine and Python.

    without   a folder whose files do not count
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py"), key=lambda one: one.relative_to(folder).as_posix()):
            if without is not None and path.is_relative_to(without):
                continue
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(code_digest(path.read_bytes()).encode())
    return digest.hexdigest()


def code_digest(source: bytes) -> str:
    """A hash of one file; that of its bytes where it is not the code of this version of Python."""
    try:
        words: Iterable[str] = _words(ast.parse(source))
        return hashlib.sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()
    except (SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(source).hexdigest()


def _words(node: ast.AST) -> Iterator[str]:
    """The nodes in order with what they hold. Empty fields are left out: versions of Python differ by them."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if name in PASSED or value is None or value == []:
            continue
        yield name
        entries = value if isinstance(value, list) else [value]
        if name == "body" and isinstance(node, DOCUMENTED) and _is_text(entries[0]):
            entries = entries[1:]
        for entry in entries:
            if isinstance(entry, ast.AST):
                yield from _words(entry)
            else:
                yield repr(entry)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
