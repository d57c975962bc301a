"""From a plain mapping to frozen dataclasses; every key is consumed or reported, all mistakes at once.

A field may be bool, int, float, str, Path, Literal, a frozen dataclass, dict[K, X], tuple[X, ...], tuple[X, Y],
X | None, another union, Any, or Annotated with the constraints of `chatbridge.config.constraints`; a registered part is
`Annotated[Choice[Encoder], PartOf(ENCODERS)]`. A Config may define `problems(self) -> Iterable[str | Problem]` for what
one field alone cannot show (contradicting fields, a missing file); it is called once all of its fields are valid.
"""

from __future__ import annotations

import contextlib
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
    OldName,
    PartOf,
    Range,
    Unit,
    missing_path,
)
from chatbridge.config.field_help import field_help, paths_of_setting, type_hints
from chatbridge.config.origins import MISSING, OPTIONS, Origins, Unresolved, join
from chatbridge.config.scalars import SCALARS
from chatbridge.config.schema_messages import article, expected, mistyped_hint, show, yaml_scalar

__all__ = [
    "Choice", "Exists", "Folder", "Formerly", "Help", "Length", "NameIn", "OldName", "PartOf", "Range", "Unit",
    "missing_path", "parse", "plain",
]  # fmt: skip

T = TypeVar("T")
FAILED: Any = object()  # the value of a read that reported a problem


def parse(
    kind: type[T], mapping: Mapping[str, Any], origins: Origins | None = None, path: str = "", is_complete: bool = True
) -> T:
    """Parse a mapping into `kind`, a frozen dataclass.

    origins      origin of each key, from `merge.load`; lets a problem name file and line
    path         path of the mapping within the whole configuration
    is_complete  False if part of the mapping could not be loaded: then missing keys are not reported

    Integers are accepted for floats, whole floats (2e5) for integers, and quoted numbers for both. null removes an
    entry of an inherited dict[str, X]. Raises ConfigError with all problems.
    """
    reader = _Reader(origins or Origins(), kind, path, is_complete)
    value = reader.read(kind, mapping, path)
    if reader.problems or value is FAILED:
        raise ConfigError(reader.problems)
    return value


def plain(value: Any) -> Any:
    """Return a Config as mappings, lists and scalars with its defaults, the inverse of `parse`, for YAML and JSON."""
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
    """One pass over the mapping that collects problems instead of stopping at the first."""

    def __init__(self, origins: Origins, root: type, root_path: str, is_complete: bool):
        self.origins, self.is_complete = origins, is_complete
        self.root, self.root_path = root, root_path
        self.problems: list[Problem] = []

    def report(self, path: str, message: str, **details: Any) -> Any:
        origin = self.origins.find(path)
        file, line = (origin.file, origin.line) if origin else (None, None)
        if path in self.origins.references:  # hides also values too short to be hidden elsewhere
            message = f"{hidden(message, 1)} (the value of {self.origins.references[path]})"
            details["hint"] = hidden(details.get("hint") or "", 1) or None
        self.problems.append(Problem(path, message, file=file, line=line, **details))
        return FAILED

    def read(self, kind: Any, value: Any, path: str, constraints: tuple[Any, ...] = ()) -> Any:
        """Return the value as `kind`, or FAILED after reporting a problem."""
        if isinstance(value, Unresolved):
            if value.is_absent and not self.is_complete:
                return FAILED
            return self.report(path, value.message, nearest=value.nearest, hint=value.hint)
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            return self.read(kind, value, path, (*constraints, *more))
        if isinstance(value, str) and value == MISSING:
            return self._report_missing_value(kind, path, constraints)
        result = self._read_kind(kind, value, path, constraints)
        return result if result is FAILED or result is None else self._check(result, path, constraints)

    def _read_kind(self, kind: Any, value: Any, path: str, constraints: tuple[Any, ...]) -> Any:
        origin = get_origin(kind)
        if kind is Any:
            return self._anything(value, path)
        if origin in (Union, types.UnionType):
            return self._union(get_args(kind), value, path, constraints)
        if origin is Literal:
            return self._literal(get_args(kind), value, path)
        if kind is Choice or origin is Choice:
            return self._choice(value, path, constraints)
        if is_dataclass(kind):
            return self._config(kind, value, path)
        if kind in (dict, Mapping) or origin in (dict, Mapping):
            return self._dict(kind, value, path)
        if kind in (tuple, Sequence) or origin in (tuple, Sequence):
            return self._tuple(kind, value, path)
        return self._scalar(kind, value, path, constraints)

    def _check(self, value: Any, path: str, constraints: tuple[Any, ...]) -> Any:
        for constraint in constraints:
            found = constraint.check(value) if hasattr(constraint, "check") else None
            if found is not None:
                if isinstance(found, Problem):  # a missing file: add what it contains
                    found = dataclasses.replace(found, hint=_lines(found.hint, *_help(constraints)))
                self._adopt(found, path)
                return FAILED
        return value

    def _adopt(self, found: str | Problem, path: str) -> None:
        """Add a problem of a constraint or of a Config's `problems`, with the full path."""
        if isinstance(found, str):
            self.report(path, found)
            return
        inner = f"{path}.{found.path}" if path and found.path else found.path or path
        origin = self.origins.find(inner)
        if origin and found.file is None:
            found = dataclasses.replace(found, file=origin.file, line=origin.line)
        if origin and found.is_absent:
            card = f"what to download, and where it goes: {origin.card}" if origin.card else None
            found = dataclasses.replace(found, hint=_lines(found.hint, origin.comment, card))
        self.problems.append(dataclasses.replace(found, path=inner))

    def _report_missing_value(self, kind: Any, path: str, constraints: tuple[Any, ...]) -> Any:
        origin = self.origins.find(path)
        comment = origin.comment if origin else None
        hint = _lines(*_help(constraints), comment, f"set it in the file or with --options {path}=...")
        message = f"is still {MISSING}; put {expected(kind, constraints)} here"
        return self.report(path, message, hint=hint)

    # ---- mappings

    def _config(self, kind: Any, value: Any, path: str, consumed: tuple[str, ...] = ()) -> Any:
        """Return a frozen dataclass from a mapping whose `consumed` keys the caller has read."""
        if not isinstance(value, Mapping):
            return self._wrong(kind, value, path)
        known = {field.name: field for field in fields(kind) if field.init}
        value = self._with_new_names(kind, value, path)
        meant = self._unknown_keys(kind, [key for key in value if key not in known and key not in consumed], path)
        is_good = not meant  # an unrelated extra key leaves a complete Config, whose own checks can run
        hints, helps, given = type_hints(kind), field_help(kind), {}
        before = len(self.problems)
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
        if not is_good:
            return FAILED
        return self._build(kind, given, path) if len(self.problems) == before else self._flawed(kind, given, path)

    def _with_new_names(self, kind: Any, value: Mapping[Any, Any], path: str) -> Mapping[Any, Any]:
        """Rename keys that have an accepted old name. Where both names are set, an option wins over a file."""
        for name, hint in type_hints(kind).items():
            for old in (one.name for one in get_args(hint) if isinstance(one, OldName)):
                if old not in value:
                    continue
                origin = self.origins.entries.get(join(path, old))
                if name not in value or (origin and origin.file == OPTIONS):
                    value = {**{key: item for key, item in value.items() if key != old}, name: value[old]}
                else:
                    self.report(join(path, old), f"is the old name of {name}, which is set too; remove one of them")
                    value = {key: item for key, item in value.items() if key != old}
        return value

    def _build(self, kind: Any, given: dict[str, Any], path: str) -> Any:
        try:
            config = kind(**given)
        except ValueError as error:  # from __post_init__
            return self.report(path, str(error))
        for problem in _own_problems(config):
            self._adopt(problem, path)
        return config

    def _flawed(self, kind: Any, given: dict[str, Any], path: str) -> Any:
        """Return a Config whose parts contradict themselves, so that its own contradictions are reported as well.

        Its checks assume sound parts: what they find before they fail counts, the failure does not.
        """
        try:
            config = kind(**given)
        except Exception:
            return FAILED
        with contextlib.suppress(Exception):
            for problem in _own_problems(config):
                self._adopt(problem, path)
        return config

    def _unknown_keys(self, kind: Any, keys: list[Any], path: str) -> set[str]:
        """Report unknown keys; returns the settings they probably mean, which are misspelled rather than missing."""
        names = tuple(field.name for field in fields(kind) if field.init)
        meant: set[str] = set()
        for key in keys:
            word = str(key)
            elsewhere = paths_of_setting(kind, path, word) or paths_of_setting(self.root, self.root_path, word)
            guess = None if elsewhere else nearest(word, names)
            if any(place == join(path, name) for place in elsewhere for name in names):
                guess, elsewhere = next(name for name in names if join(path, name) in elsewhere), []
            meant |= {guess} if guess else set(elsewhere)
            hint = f"this setting is {' or '.join(elsewhere)}" if elsewhere else None
            if word in (told := getattr(kind, "ELSEWHERE", {})):  # what does not belong in a file, with the next step
                hint, guess = told[word], None
            if isinstance(key, bool):
                origin = self.origins.entries.get(join(path, key))
                spelled = f': "{origin.key}"' if origin and origin.key else ""
                hint = f"YAML reads yes, no, on and off as true and false; quote the key{spelled}"
            allowed = names or ("nothing, it has no settings",)
            self.report(join(path, word), "is not a valid key", allowed=allowed, nearest=guess, hint=hint)
        return meant

    def _choice(self, value: Any, path: str, constraints: tuple[Any, ...]) -> Any:
        registry = next((constraint.registry for constraint in constraints if isinstance(constraint, PartOf)), None)
        if registry is None:
            raise TypeError(f"{path}: annotate Choice with PartOf(REGISTRY)")
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or value["name"] == MISSING:
            return self._report_missing_name(registry, value, path)
        try:
            part = registry.get(value["name"])
        except ConfigError as error:
            for problem in error.problems:
                self._adopt(dataclasses.replace(problem, path="name"), path)
            return FAILED
        config = self._config(part.Config, value, path, consumed=("name",))
        return FAILED if config is FAILED else Choice(value["name"], config, part)

    def _report_missing_name(self, registry: Any, value: Any, path: str) -> Any:
        names = registry.names()
        if isinstance(value, Mapping):
            if not value.get("name") and not self.is_complete:
                return FAILED
            message = f"is missing; it selects the {registry.kind}"
            if "name" in value and value["name"] != MISSING:
                message = f"expected the name of {article(registry.kind)}, got {show(value['name'])}"
            said = next(
                (f"{key}: {item}" for key, item in value.items() if isinstance(item, str) and item in names), None
            )
            hint = f"write name: {said.partition(': ')[2]} instead of {said}" if said else None
            return self.report(join(path, "name"), message, allowed=names, hint=hint)
        hint = f"write {{name: {nearest(value, names) or value}}}" if isinstance(value, str) else None
        return self.report(path, f"expected a mapping with a name, got {show(value)}", allowed=names, hint=hint)

    def _dict(self, kind: Any, value: Any, path: str) -> Any:
        """Return named entries. null as a value removes the inherited entry; null for the whole mapping removes all."""
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

    def _union(self, kinds: tuple[Any, ...], value: Any, path: str, constraints: tuple[Any, ...]) -> Any:
        if value is None and type(None) in kinds:
            return None
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        if len(kinds) == 1:
            return self.read(kinds[0], value, path, constraints)
        before, attempts = len(self.problems), []
        for kind in kinds:
            result = self.read(kind, value, path)
            if result is not FAILED and len(self.problems) == before:
                del self.problems[before:]
                return result
            attempts.append(self.problems[before:])
            del self.problems[before:]
        if not all(attempts):  # one kind fits, except for keys of a file that could not be read
            return FAILED
        deepest = max(attempts, key=lambda problems: max(len(problem.path) for problem in problems))
        if any(
            problem.path != path for problem in deepest
        ):  # one kind has the right shape: its problems are the useful ones
            self.problems += deepest
            return FAILED
        words = tuple(yaml_scalar(item) for kind in kinds if get_origin(kind) is Literal for item in get_args(kind))
        return self._wrong(Union[kinds], value, path, nearest=nearest(str(value), words))  # noqa: UP007

    def _literal(self, items: tuple[Any, ...], value: Any, path: str) -> Any:
        for item in items:
            if value == item and type(value) is type(item):
                return item
        words = tuple(yaml_scalar(item) for item in items)
        guess = nearest(yaml_scalar(value), words) if isinstance(value, (str, int, float)) else None
        return self.report(
            path, f"cannot be {show(value)}", allowed=words, nearest=guess, hint=mistyped_hint(Literal, value)
        )

    def _scalar(self, kind: Any, value: Any, path: str, constraints: tuple[Any, ...]) -> Any:
        if kind not in SCALARS:
            raise TypeError(f"{path}: the schema cannot read a field of type {kind}")
        result = SCALARS[kind](value)
        return self._wrong(kind, value, path, constraints) if result is None else result

    def _anything(self, value: Any, path: str) -> Any:
        """Return the value unchanged; only ??? and failed interpolations in it are reported."""
        if isinstance(value, Mapping):
            return {key: self.read(Any, item, join(path, str(key))) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.read(Any, item, join(path, at)) for at, item in enumerate(value)]
        return value

    def _wrong(self, kind: Any, value: Any, path: str, constraints: tuple[Any, ...] = (), **details: Any) -> Any:
        origin = self.origins.entries.get(path)
        written = origin.written if origin and not isinstance(value, (Mapping, list, tuple)) else None
        is_other = written is not None and not isinstance(value, str) and written != show(value)
        got = f"{written}, which YAML reads as {show(value)}" if is_other else show(value)
        message = f"expected {expected(kind, constraints)}, got {got}"
        return self.report(path, message, hint=mistyped_hint(kind, value, written), **details)


def _own_problems(config: Any) -> Iterable[str | Problem]:
    return config.problems() if hasattr(config, "problems") else ()


def _help(constraints: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(constraint.text for constraint in constraints if isinstance(constraint, Help))


def _lines(*hints: str | None) -> str | None:
    """Join hints by line breaks, each once."""
    return "\n".join(dict.fromkeys(hint for hint in hints if hint)) or None
