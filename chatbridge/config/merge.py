"""From a YAML file to one plain mapping: `base:` files, then the file, then --options, then interpolation.

Mappings merge, lists and scalars replace; an override that changes `name` drops the inherited node first. Types are
not checked here but in `schema.parse`, which reads the origins to name the file and line of a rejected key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.config.constraints import missing_path
from chatbridge.config.interpolation import escape, interpolate
from chatbridge.config.options import option_origin, parse_option
from chatbridge.config.origins import MISSING, OPTIONS, Origin, Origins, is_below, join
from chatbridge.config.schema import parse, plain
from chatbridge.config.shipped import SHIPPED
from chatbridge.config.yaml_io import read_yaml, write_yaml

T = TypeVar("T")


def load(
    path: str | Path, options: Sequence[str] = (), config_root: Path | None = None
) -> tuple[dict[str, Any], Origins]:
    """Return the merged and interpolated configuration, and the origin of each key.

    path         a YAML file; its `base: [a.yaml, ...]` is looked up in `config_root`, beside the file, and in the
                 working folder
    options      "run.max_steps=400", values read as YAML; they come last
    config_root  default: the configs/ that ship with ChatBridge

    `???` stays; a value that cannot be interpolated becomes `Unresolved`, which `schema.parse` reports with the rest.
    raises ConfigError with all problems of all files and options: missing, unreadable, circular, not a mapping.
    """
    merge = _merged(path, options, config_root)
    if merge.problems:
        raise ConfigError(merge.problems)
    return interpolate(merge.config, merge.origins), merge.origins


def read(
    kind: type[T],
    path: str | Path,
    options: Sequence[str] = (),
    config_root: Path | None = None,
    prepare: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[T, dict[str, Any], Origins]:
    """Load and parse in one step, so that the problems of both are reported together.

    prepare   called with the mapping before it is parsed, for example to add its plugins to the registries
    returns   the parsed configuration, the mapping it was parsed from, and the origin of each key
    """
    merge = _merged(path, options, config_root)
    mapping, problems = interpolate(merge.config, merge.origins), list(merge.problems)
    try:
        if prepare is not None:
            prepare(mapping)
    except ConfigError as error:
        problems += [placed(one, merge.origins) for one in error.problems]
    try:
        value = parse(kind, mapping, merge.origins, is_complete=not merge.problems)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return value, mapping, merge.origins


def with_options(mapping: Mapping[str, Any], options: Sequence[str]) -> tuple[dict[str, Any], Origins]:
    """Return a mapping that is not from a YAML file, overridden by options. Raises ConfigError as `load` does."""
    merge = _Merge([])
    merge.config = _own_copy(dict(mapping))
    merge.add_options(options)
    if merge.problems:
        raise ConfigError(merge.problems)
    return merge.config, merge.origins


def placed(problem: Problem, origins: Origins) -> Problem:
    """Return the problem with the file and line that set its path, unless it already has them."""
    origin = origins.find(problem.path)
    return replace(problem, file=origin.file, line=origin.line) if origin and problem.file is None else problem


def save_resolved(config: Mapping[str, Any] | object, path: str | Path) -> None:
    """Write a resolved mapping, or a parsed Config with its defaults; `load` reads the same values back."""
    write_yaml(escape(plain(config)), Path(path))


def display_path(path: str | Path) -> str:
    """Return a path for messages, relative to the current folder if it is inside it."""
    path = Path(path)
    try:
        return path.absolute().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def _merged(path: str | Path, options: Sequence[str], config_root: Path | None) -> _Merge:
    merge = _Merge([config_root] if config_root else [root for root in SHIPPED if root.is_dir()])
    merge.add_file(Path(path), display_path(path), ())
    merge.add_options(options)
    merge.problems = list(dict.fromkeys(merge.problems))  # a base of two files is read twice
    return merge


class _Merge:
    """The configuration merged so far, its origins, and the problems found."""

    def __init__(self, roots: list[Path]):
        self.roots = roots
        self.config: dict[str, Any] = {}
        self.origins = Origins()
        self.problems: list[Problem] = []

    def add_file(self, path: Path, name: str, parents: tuple[Path, ...]) -> None:
        """Merge the bases of `path`, then the file itself."""
        problem = missing_path(path, "file") if not parents else None
        if problem is not None:
            self.problems.append(replace(problem, file=name))
            return
        try:
            data, entries, problems = read_yaml(path, name)
        except ConfigError as error:
            self.problems += error.problems
            return
        self.problems += problems
        if data is not None and not isinstance(data, dict):
            message = f"holds {_kind(data)} at its top level, expected a mapping (key: value)"
            self.problems.append(Problem("", message, file=name))
            return
        data = data or {}
        self._add_bases(data.pop("base", []), entries, path, name, (*parents, path.resolve()))
        self._merge(self.config, data, "", entries)

    def _add_bases(self, bases: Any, entries: dict[str, Origin], path: Path, name: str, parents: tuple) -> None:
        if not isinstance(bases, list):
            hint = f"write base: [{bases}]" if isinstance(bases, str) else None
            message = f"expected a list of YAML files, got {_kind(bases)}"
            self.problems.append(Problem("base", message, file=name, line=entries["base"].line, hint=hint))
            return
        for at, base in enumerate(bases):
            line = entries[f"base[{at}]"].line
            found = self._find(str(base), path.parent) if isinstance(base, str) else None
            if found is None:
                self.problems.append(self._no_base(base, at, path, name, line))
            elif found.resolve() in parents:
                circle = " -> ".join(display_path(one) for one in (*parents, found))
                self.problems.append(Problem(f"base[{at}]", f"is a circular base: {circle}", file=name, line=line))
            else:
                self.add_file(found, display_path(found), parents)

    def _folders(self, folder: Path) -> list[Path]:
        """Return where a base is searched: the shipped configs, the folder of the file, the working folder."""
        return list(dict.fromkeys([*self.roots, folder, Path.cwd()]))

    def _find(self, base: str, folder: Path) -> Path | None:
        candidates = (root / base for root in self._folders(folder))
        return next((path for path in candidates if path.is_file()), None)

    def _no_base(self, base: Any, at: int, path: Path, name: str, line: int | None) -> Problem:
        folders = self._folders(path.parent)
        files = {file.relative_to(root).as_posix() for root in self.roots for file in root.rglob("*.yaml")}
        for folder in folders[len(self.roots) :]:  # may be a home folder: only the folder of the base is listed
            beside = (folder / str(base)).parent
            files |= {os.path.relpath(file, folder) for file in beside.glob("*.yaml")}
        looked = f"searched {', then '.join(dict.fromkeys(map(display_path, folders)))}"
        guess = nearest(str(base), sorted(files))
        is_folder = isinstance(base, str) and any((folder / base).is_dir() for folder in folders)
        message = f"{base} is a folder, expected a YAML file" if is_folder else f"there is no file {base}"
        return Problem(f"base[{at}]", message, name, nearest=None if is_folder else guess, hint=looked, line=line)

    def add_options(self, options: Iterable[str]) -> None:
        """Merge all options at once, so that their order does not matter if one of them sets `name`."""
        tree: dict[str, Any] = {}
        written: dict[str, Origin] = {}
        for option in options:
            try:
                keys, value, entries = parse_option(option)
                self._refuse_items(keys, option)
            except ConfigError as error:
                self.problems += error.problems
            else:
                top = ".".join(keys)
                written |= {f"{top}{'.' * (at[:1] not in ('', '['))}{at}": one for at, one in entries.items()}
                for key in reversed(keys):
                    value = {key: value}
                _merge_mappings(tree, value)
        origins = {at: option_origin(written.get(at)) for at in _paths(tree, "")}
        self._merge(self.config, tree, "", origins)

    def _refuse_items(self, keys: list[str], option: str) -> None:
        here: Any = self.config
        for at, key in enumerate(keys):
            if isinstance(here, list):
                where = ".".join(keys[:at])
                hint = f"give the whole list: {where}=[...]"
                raise ConfigError(
                    [Problem(where, f"is a list; {option!r} cannot set one of its items", OPTIONS, hint=hint)]
                )
            here = here.get(key) if isinstance(here, dict) else None

    def _merge(self, below: dict, above: dict, path: str, entries: dict[str, Origin]) -> None:
        for key, value in above.items():
            inner, old = join(path, key), below.get(key)
            if isinstance(old, dict) and isinstance(value, dict) and not _renames(old, value):
                self._merge(old, value, inner, entries)
            else:
                below[key] = _own_copy(value)
                self.origins.replace(inner, {at: origin for at, origin in entries.items() if is_below(at, inner)})


def _own_copy(value: Any) -> Any:
    """Return a copy without shared parts, so that each use of a YAML anchor (&name, *name) can be overridden."""
    if isinstance(value, dict):
        return {key: _own_copy(item) for key, item in value.items()}
    return [_own_copy(item) for item in value] if isinstance(value, list) else value


def _merge_mappings(below: dict, above: dict) -> None:
    for key, value in above.items():
        if isinstance(below.get(key), dict) and isinstance(value, dict):
            _merge_mappings(below[key], value)
        else:
            below[key] = value


def _renames(old: dict, new: dict) -> bool:
    return old.get("name", MISSING) != MISSING and "name" in new and new["name"] != old["name"]


def _paths(value: Any, path: str) -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, join(path, key))


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "nothing" if value is None else f"{value!r}"
