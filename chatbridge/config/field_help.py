"""Facts about the fields of a Config: their types, the paths of a setting, and the help text.

Help is read from the comments beside the fields, so it is written only once.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from chatbridge.config.constraints import Choice, Formerly
from chatbridge.config.origins import join

Comments = dict[int, str]  # line -> text without "#"


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """Return field name -> type with constraints. Raises TypeError for a type that only type checkers can import."""
    try:
        return get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(f"{kind.__qualname__}: {error}; import its field types at module level") from error


def paths_of_setting(kind: Any, path: str, word: str, seen: tuple[type, ...] = ()) -> list[str]:
    """Return the paths of a setting in a tree of dataclasses, by its present or a former name."""
    if not is_dataclass(kind) or kind in seen or kind is Choice:
        return []
    found: list[str] = []
    for field in fields(kind):
        hint, constraints = type_hints(kind)[field.name], []  # pyright: ignore[reportArgumentType]
        if get_origin(hint) is Annotated:
            hint, *constraints = get_args(hint)
        inner = join(path, field.name)
        former = [name for constraint in constraints if isinstance(constraint, Formerly) for name in constraint.names]
        if word in (field.name, *former):
            found.append(inner)
        below = join(inner, "*") if get_origin(hint) is dict else inner
        for part in (hint, *get_args(hint)):
            found += paths_of_setting(part, below, word, (*seen, kind))  # pyright: ignore[reportArgumentType]
    return found


@cache
def field_help(kind: type) -> dict[str, str]:
    """Return field name -> comment for a dataclass and its bases; fields without a comment are left out.

    A comment is at the end of the field's line or, if longer, directly above it.
    """
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if "__dataclass_fields__" in vars(owner):
            found |= _own_help(owner)
    return found


@cache
def _own_help(owner: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(owner))
        body = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndentationError):  # no source: compiled, or defined at a prompt
        return {}
    comments, whole_lines = _comments(source)
    found = {}
    for node in getattr(body, "body", ()):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = comments.get(node.end_lineno or node.lineno) or _above(node.lineno, comments, whole_lines)
            if text:
                found[node.target.id] = text
    return found


def _comments(source: str) -> tuple[Comments, set[int]]:
    """Return all comments, and the lines that hold nothing else."""
    comments: Comments = {}
    whole_lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            comments[line] = token.string.lstrip("#").strip()
            if not token.line[:column].strip():
                whole_lines.add(line)
    return comments, whole_lines


def _above(line: int, comments: Comments, whole_lines: set[int]) -> str:
    lines: list[str] = []
    while (line := line - 1) in whole_lines:
        lines.insert(0, comments[line])
    return " ".join(lines)
