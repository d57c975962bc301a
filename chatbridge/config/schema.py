"""From a plain mapping to frozen dataclasses; every key is consumed, or reported with all the other mistakes at once.

A field may be bool, int, float, str, Path, Literal, a frozen dataclass, dict[K, X], tuple[X, ...], tuple[X, Y],
X | None, another union, Any, or Annotated with the markers of `chatbridge.config.constraints`; a registered part is
`Annotated[Choice[Encoder], PartOf(ENCODERS)]`. A Config may define `problems(self) -> Iterable[str | Problem]` for what
one field alone cannot show (two fields that contradict, a missing file); it is asked once its own fields are right.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from chatbridge.common.environment import hidden
from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.config.constraints import (
    Choice,
    Exists,
    Folder,
    Formerly,
    Help,
    Length,
    NameIn,
    PartOf,
    Range,
    Unit,
    missing_path,
)
from chatbridge.config.field_help import field_help, places, type_hints
from chatbridge.config.origins import MISSING, Origins, Unresolved, join
from chatbridge.config.scalars import SCALARS
from chatbridge.config.schema_messages import article, expected, mistyped_hint, show, yaml_word

__all__ = [
    "Choice", "Exists", "Folder", "Formerly", "Help", "Length", "NameIn", "PartOf", "Range", "Unit", "missing_path",
    "parse", "plain",
]  # fmt: skip

T = TypeVar("T")
FAILED: Any = object()  # what a read returns when it has reported a problem


def parse(
    kind: type[T], mapping: Mapping[str, Any], origins: Origins | None = None, path: str = "", is_complete: bool = True
) -> T:
    """The mapping as a `kind`, a frozen dataclass.

    origins      who set which key, from `config.load`; lets a problem name file and line
    path         where the mapping stands in the whole configuration
    is_complete  False when part of the mapping could not be loaded: then nobody is blamed for a missing key

    Integers are fine for floats, whole floats (2e5) for integers, and numbers in quotes for both. null takes an entry
    out of an inherited dict[str, X]. raises ConfigError with every problem there is.
    """
    reader = _Reader(origins or Origins(), kind, path, is_complete)
    value = reader.read(kind, mapping, path)
    if reader.problems or value is FAILED:
        raise ConfigError(reader.problems)
    return value


def plain(value: Any) -> Any:
    """The inverse of `parse`: mappings, lists and scalars, defaults filled in; fit for YAML and JSON."""
    if isinstance(value, Choice):
        return {"name": value.name, **plain(value.config)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


class _Reader:
    """One walk over the mapping; collects problems instead of stopping at the first."""

    def __init__(self, origins: Origins, root: type, root_path: str, is_complete: bool):
        self.origins, self.is_complete = origins, is_complete
        self.root, self.root_path = root, root_path
        self.problems: list[Problem] = []

    def report(self, path: str, message: str, **details: Any) -> Any:
        origin = self.origins.find(path)
        file, line = (origin.file, origin.line) if origin else (None, None)
        if path in self.origins.references:  # also a value too short to be hidden elsewhere
            message = f"{hidden(message, 1)} (the value of {self.origins.references[path]})"
            details["hint"] = hidden(details.get("hint") or "", 1) or None
        self.problems.append(Problem(path, message, file=file, line=line, **details))
        return FAILED

    def read(self, kind: Any, value: Any, path: str, markers: tuple[Any, ...] = ()) -> Any:
        """The value as `kind`, or FAILED after reporting."""
        if isinstance(value, Unresolved):
            if value.is_absent and not self.is_complete:
                return FAILED
            return self.report(path, value.message, nearest=value.nearest, hint=value.hint)
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            return self.read(kind, value, path, (*markers, *more))
        if isinstance(value, str) and value == MISSING:
            return self._left_open(kind, path, markers)
        result = self._read_kind(kind, value, path, markers)
        return result if result is FAILED or result is None else self._check(result, path, markers)

    def _read_kind(self, kind: Any, value: Any, path: str, markers: tuple[Any, ...]) -> Any:
        origin = get_origin(kind)
        if kind is Any:
            return self._anything(value, path)
        if origin in (Union, types.UnionType):
            return self._union(get_args(kind), value, path, markers)
        if origin is Literal:
            return self._literal(get_args(kind), value, path)
        if kind is Choice or origin is Choice:
            return self._choice(value, path, markers)
        if is_dataclass(kind):
            return self._config(kind, value, path)
        if kind in (dict, Mapping) or origin in (dict, Mapping):
            return self._dict(kind, value, path)
        if kind in (tuple, Sequence) or origin in (tuple, Sequence):
            return self._tuple(kind, value, path)
        return self._scalar(kind, value, path, markers)

    def _check(self, value: Any, path: str, markers: tuple[Any, ...]) -> Any:
        for marker in markers:
            found = marker.check(value) if hasattr(marker, "check") else None
            if found is not None:
                if isinstance(found, Problem):  # a file that is not there: say what it holds
                    found = dataclasses.replace(found, hint=_lines(found.hint, *_help(markers)))
                self._adopt(found, path)
                return FAILED
        return value

    def _adopt(self, found: str | Problem, path: str) -> None:
        """Take over what a marker or a Config's `problems` said, with the path put in front."""
        if isinstance(found, str):
            self.report(path, found)
            return
        inner = f"{path}.{found.path}" if path and found.path else found.path or path
        if found.file is None:
            origin = self.origins.find(inner)
            found = dataclasses.replace(found, file=origin.file, line=origin.line) if origin else found
        self.problems.append(dataclasses.replace(found, path=inner))

    def _left_open(self, kind: Any, path: str, markers: tuple[Any, ...]) -> Any:
        origin = self.origins.find(path)
        comment = origin.comment if origin else None
        hint = _lines(*_help(markers), comment, f"set it in the file or with --options {path}=...")
        message = f"is still {MISSING}; put {expected(kind, markers)} here"
        return self.report(path, message, hint=hint)

    # ---- mappings

    def _config(self, kind: Any, value: Any, path: str, consumed: tuple[str, ...] = ()) -> Any:
        """A frozen dataclass from a mapping whose `consumed` keys were read by the caller."""
        if not isinstance(value, Mapping):
            return self._wrong(kind, value, path)
        known = {field.name: field for field in fields(kind) if field.init}
        meant = self._unknown_keys(kind, [key for key in value if key not in known and key not in consumed], path)
        is_good = not meant  # a key that means nothing here leaves a whole Config, whose own checks can go on
        hints, helps, given = type_hints(kind), field_help(kind), {}
        for name, field in known.items():
            inner = join(path, name)
            if name in value:
                given[name] = self.read(hints[name], value[name], inner, (Help(helps[name]),) if name in helps else ())
            elif field.default is NO_DEFAULT and field.default_factory is NO_DEFAULT:
                is_good = False
                hint = _lines(*_help(get_args(hints[name])), helps.get(name))
                if self.is_complete and name not in meant:
                    self.report(inner, f"is missing; put {expected(hints[name])} here", hint=hint)
        is_good = is_good and all(item is not FAILED for item in given.values())
        return self._build(kind, given, path) if is_good else FAILED

    def _build(self, kind: Any, given: dict[str, Any], path: str) -> Any:
        try:
            config = kind(**given)
        except ValueError as error:  # a Config that checks itself in __post_init__
            return self.report(path, str(error))
        found: Iterable[str | Problem] = config.problems() if hasattr(config, "problems") else ()
        before = len(self.problems)
        for problem in found:
            self._adopt(problem, path)
        return config if len(self.problems) == before else FAILED

    def _unknown_keys(self, kind: Any, keys: list[Any], path: str) -> set[str]:
        """Report keys nobody reads; returns the settings they were meant for, which are not missing but misspelled."""
        names = tuple(field.name for field in fields(kind) if field.init)
        meant: set[str] = set()
        for key in keys:
            word = str(key)
            elsewhere = places(kind, path, word) or places(self.root, self.root_path, word)
            guess = None if elsewhere else nearest(word, names)
            if any(place == join(path, name) for place in elsewhere for name in names):
                guess, elsewhere = next(name for name in names if join(path, name) in elsewhere), []
            meant |= {guess} if guess else set(elsewhere)
            hint = f"that setting is {' or '.join(elsewhere)}" if elsewhere else None
            if isinstance(key, bool):
                origin = self.origins.entries.get(join(path, key))
                spelled = f': "{origin.key}"' if origin and origin.key else ""
                hint = f"YAML reads yes, no, on and off as true and false; put the key in quotes{spelled}"
            allowed = names or ("nothing, it has no settings",)
            self.report(join(path, word), "is not a known key", allowed=allowed, nearest=guess, hint=hint)
        return meant

    def _choice(self, value: Any, path: str, markers: tuple[Any, ...]) -> Any:
        registry = next((marker.registry for marker in markers if isinstance(marker, PartOf)), None)
        if registry is None:
            raise TypeError(f"{path}: annotate Choice with PartOf(REGISTRY)")
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or value["name"] == MISSING:
            return self._nameless(registry, value, path)
        try:
            part = registry.get(value["name"])
        except ConfigError as error:
            for problem in error.problems:
                self._adopt(dataclasses.replace(problem, path="name"), path)
            return FAILED
        config = self._config(part.Config, value, path, consumed=("name",))
        return FAILED if config is FAILED else Choice(value["name"], config, part)

    def _nameless(self, registry: Any, value: Any, path: str) -> Any:
        names = registry.names()
        if isinstance(value, Mapping):
            if not value.get("name") and not self.is_complete:
                return FAILED
            message = f"is missing; it says which {registry.kind} this is"
            if "name" in value and value["name"] != MISSING:
                message = f"expected the name of {article(registry.kind)}, got {show(value['name'])}"
            said = next(
                (f"{key}: {item}" for key, item in value.items() if isinstance(item, str) and item in names), None
            )
            hint = f"instead of {said} write name: {said.partition(': ')[2]}" if said else None
            return self.report(join(path, "name"), message, allowed=names, hint=hint)
        hint = f"write {{name: {nearest(value, names) or value}}}" if isinstance(value, str) else None
        return self.report(path, f"expected a mapping with a name, got {show(value)}", allowed=names, hint=hint)

    def _dict(self, kind: Any, value: Any, path: str) -> Any:
        """Named entries. null in the place of one takes out what a base has there, null in the place of all of them
        leaves none."""
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            return self._wrong(kind, value, path)
        key_kind, item_kind = get_args(kind) or (Any, Any)
        nullable = item_kind is Any or type(None) in get_args(item_kind)
        items = {}
        for key, item in value.items():
            inner = join(path, str(key))
            if item is not None or nullable:
                items[self.read(key_kind, key, inner)] = self.read(item_kind, item, inner)
        return FAILED if FAILED in items or any(item is FAILED for item in items.values()) else items

    # ---- lists, unions and scalars

    def _tuple(self, kind: Any, value: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            return self._wrong(kind, value, path)
        kinds = get_args(kind) or (Any, ...)
        if kinds[-1] is ... or get_origin(kind) is not tuple:
            kinds = (kinds[0],) * len(value)
        elif len(kinds) != len(value):
            return self.report(path, f"expected a list of {len(kinds)}, got {show(value)}")
        items = tuple(self.read(one, item, join(path, at)) for at, (one, item) in enumerate(zip(kinds, value)))
        return FAILED if any(item is FAILED for item in items) else items

    def _union(self, kinds: tuple[Any, ...], value: Any, path: str, markers: tuple[Any, ...]) -> Any:
        if value is None and type(None) in kinds:
            return None
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        if len(kinds) == 1:
            return self.read(kinds[0], value, path, markers)
        before, attempts = len(self.problems), []
        for kind in kinds:
            result = self.read(kind, value, path)
            if result is not FAILED:
                del self.problems[before:]
                return result
            attempts.append(self.problems[before:])
            del self.problems[before:]
        if not all(attempts):  # one kind fits but for what a file would have brought that could not be read
            return FAILED
        deepest = max(attempts, key=lambda problems: max(len(problem.path) for problem in problems))
        if any(problem.path != path for problem in deepest):  # one kind fits in shape: its problems are the useful ones
            self.problems += deepest
            return FAILED
        words = tuple(yaml_word(item) for kind in kinds if get_origin(kind) is Literal for item in get_args(kind))
        return self._wrong(Union[kinds], value, path, nearest=nearest(str(value), words))  # noqa: UP007

    def _literal(self, items: tuple[Any, ...], value: Any, path: str) -> Any:
        for item in items:
            if value == item and type(value) is type(item):
                return item
        words = tuple(yaml_word(item) for item in items)
        guess = nearest(yaml_word(value), words) if isinstance(value, (str, int, float)) else None
        return self.report(
            path, f"cannot be {show(value)}", allowed=words, nearest=guess, hint=mistyped_hint(Literal, value)
        )

    def _scalar(self, kind: Any, value: Any, path: str, markers: tuple[Any, ...]) -> Any:
        if kind not in SCALARS:
            raise TypeError(f"{path}: the schema cannot read a field of type {kind}")
        result = SCALARS[kind](value)
        return self._wrong(kind, value, path, markers) if result is None else result

    def _anything(self, value: Any, path: str) -> Any:
        """Taken over as it is, but nothing in it may be open."""
        if isinstance(value, Mapping):
            return {key: self.read(Any, item, join(path, str(key))) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.read(Any, item, join(path, at)) for at, item in enumerate(value)]
        return value

    def _wrong(self, kind: Any, value: Any, path: str, markers: tuple[Any, ...] = (), **details: Any) -> Any:
        origin = self.origins.entries.get(path)
        written = origin.written if origin and not isinstance(value, (Mapping, list, tuple)) else None
        is_other = written is not None and not isinstance(value, str) and written != show(value)
        got = f"{written}, which YAML reads as {show(value)}" if is_other else show(value)
        message = f"expected {expected(kind, markers)}, got {got}"
        return self.report(path, message, hint=mistyped_hint(kind, value, written), **details)


def _help(markers: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(marker.text for marker in markers if isinstance(marker, Help))


def _lines(*hints: str | None) -> str | None:
    """Hints one below the other, without repeating one."""
    return "\n".join(dict.fromkeys(hint for hint in hints if hint)) or None
