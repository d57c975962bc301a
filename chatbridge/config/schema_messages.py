"""Phrases for messages of the schema: expected types, found values, and hints on common YAML mistakes."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

TYPE_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    Any: "a value",
    type(None): "null",
}


def expected(kind: Any, constraints: tuple[Any, ...] = ()) -> str:
    """Describe a type: "a number in ms above 0", "a list, each item text"."""
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        constraints = (*constraints, *more)
    phrases = [constraint.phrase for constraint in constraints if hasattr(constraint, "phrase")]
    words = _type_name(kind)
    end = (
        " or null" if phrases and words.endswith(" or null") else ""
    )  # a constraint is about the value, not about null
    return " ".join([words.removesuffix(end), *phrases]) + end


def _type_name(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if origin in (Union, types.UnionType):
        return " or ".join(expected(one) for one in inner)
    if origin is Literal:
        return " or ".join(yaml_scalar(one) for one in inner)
    if kind in (tuple, Sequence) or origin in (tuple, Sequence):
        if len(inner) > 1 and inner[-1] is not ...:
            return f"a list of {len(inner)}"
        return f"a list, each item {expected(inner[0])}" if inner else "a list"
    if kind in (dict, Mapping) or origin in (dict, Mapping):
        return "a mapping (key: value)"
    if is_dataclass(origin or kind):
        return "a mapping (key: value)"
    return str(kind)


def show(value: Any) -> str:
    """Return a value for a message, as it is written in YAML, shortened."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, Mapping):
        return f"a mapping ({', '.join(map(str, value))[:60]})" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return yaml_scalar(value)
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def article(word: str) -> str:
    """Return the word with "a" or "an"."""
    return f"an {word}" if word[:1] in "aeiou" else f"a {word}"


def yaml_scalar(value: Any) -> str:
    """Return a scalar in YAML notation."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def mistyped_hint(kind: Any, value: Any, written: str | None = None) -> str | None:
    """Return a hint on the YAML mistake that gives a value another type; None without one.

    written   the spelling in the file, if known
    """
    spelled = str(value) if written is None else written
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    wants_text = any(one in (str, Path, Literal) or get_origin(one) is Literal for one in kinds)
    wants_list = any((get_origin(one) or one) in (tuple, Sequence) for one in kinds)
    if isinstance(value, bool) and wants_text:
        return "YAML reads yes, no, on and off as true and false; quote it for text" + (
            "" if written is None else f': "{written}"'
        )
    words = {word for one in kinds if get_origin(one) is Literal for word in get_args(one)}
    if isinstance(value, (int, float)) and (str in kinds or Path in kinds or str(value) in words):
        return f"put it in quotes: '{spelled}'"
    if wants_list and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return f'write a list: ["{value}"]' if isinstance(value, str) else f"write a list: [{spelled}]"
    if bool in kinds and isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off"):
        return "remove the quotes"
    if isinstance(value, Mapping) and any(one in (bool, int, float, str, Path) for one in kinds):
        return "this setting takes no nested keys; check the indentation of the following lines"
    return None
