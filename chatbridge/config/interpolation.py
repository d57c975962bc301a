"""Interpolation by OmegaConf: `${run.output_dir}/media`, `${oc.env:HOME}`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, OmegaConfBaseException

from chatbridge.common.environment import Reference, note_variables
from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.config.origins import MISSING, Origins, Unresolved, join

MOST_VALUES = 100_000  # in a configuration with ${...} expanded; far above any real one
OPEN, CLOSE = "\ue0f0", "\ue0f1"  # replace ${ and } of a reference to the environment; private-use characters
REFERENCE = re.compile(r"\$\{([^${}:]+)\}")  # ${a.b}, without resolvers such as ${oc.env:A}


def interpolate(config: dict[str, Any], origins: Origins) -> dict[str, Any]:
    """Replace every ${...} by its value, or by `Unresolved`.

    raises  ConfigError if nested references expand to more than MOST_VALUES values
    """
    if _Expansion(config).num_values((), config) > MOST_VALUES:
        message = f"expands to more than {MOST_VALUES:,} values once every ${{...}} is replaced"
        raise ConfigError([Problem("", message, hint="write the values out instead of nesting references")])
    values = _interpolated(config, origins)
    if _names_environment(config):
        masked = _interpolated(_masked(config), origins)
        origins.references = dict(_references(values, masked, config, ""))
    return values


def _interpolated(config: dict[str, Any], origins: Origins) -> dict[str, Any]:
    tree = OmegaConf.create(_mark_bad_grammar(config), flags={"allow_objects": True})
    return _values(tree, (tree,), tuple(origins))


def resolved_environment(value: Any) -> Any:
    """Replace `${oc.env:...}` in plain values; unset variables stay as they are. For a manifest, whose other texts are
    not interpolated."""
    if isinstance(value, dict):
        return {key: resolved_environment(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved_environment(item) for item in value]
    if not isinstance(value, str) or "${oc.env:" not in value:
        return value
    note_variables(value)
    try:
        return OmegaConf.create([value])[0]
    except OmegaConfBaseException:
        return value


def _names_environment(value: Any) -> bool:
    """Return whether any text refers to the environment; its variables are recorded, so that messages hide them."""
    if isinstance(value, (dict, list)):
        found = [_names_environment(item) for item in (value.values() if isinstance(value, dict) else value)]
        return any(found)  # a list: every variable is recorded
    if isinstance(value, str) and "oc.env:" in value:
        note_variables(value)
        return True
    return False


def _masked(value: Any) -> Any:
    """Return the values with every `${oc.env:...}` as text that OmegaConf leaves alone."""
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    while isinstance(value, str) and (found := re.search(r"(?<!\\)\$\{oc\.env:", value)):
        end = _end(value, found.start() + 2)
        inside = value[found.start() + 2 : end - 1].replace("${", OPEN).replace("}", CLOSE)
        value = value[: found.start()] + OPEN + inside + CLOSE + value[end:]
    return value


def _end(text: str, at: int) -> int:
    """Return the position after the brace that closes the one open at `at`."""
    depth = 1
    while at < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at


def _references(value: Any, masked: Any, raw: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the paths whose values depend on the environment, with their text."""
    if isinstance(masked, dict) and isinstance(value, dict):
        for key, item in masked.items():
            inner = raw.get(key) if isinstance(raw, dict) else None
            yield from _references(value.get(key), item, inner, join(path, key))
    elif isinstance(masked, list) and isinstance(value, list):
        for at, item in enumerate(masked):
            inner = raw[at] if isinstance(raw, list) and at < len(raw) else None
            yield from _references(value[at] if at < len(value) else None, item, inner, join(path, at))
    elif isinstance(masked, str) and OPEN in masked:
        yield path, masked.replace(OPEN, "${").replace(CLOSE, "}")
    elif isinstance(masked, Unresolved) and not isinstance(value, Unresolved) and isinstance(raw, str):
        yield path, raw


class _Expansion:
    """Counts values before anything is replaced: nested references multiply, and OmegaConf would follow each."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.known: dict[tuple[Any, ...], int] = {}

    def num_values(self, path: tuple[Any, ...], value: Any) -> int:
        if path in self.known:
            return self.known[path]
        self.known[path] = 0  # for a value inside itself, which OmegaConf reports
        if isinstance(value, dict):
            found = 1 + sum(self.num_values((*path, key), item) for key, item in value.items())
        elif isinstance(value, list):
            found = 1 + sum(self.num_values((*path, at), item) for at, item in enumerate(value))
        else:
            names = REFERENCE.findall(value) if isinstance(value, str) and "${" in value else ()
            found = 1 + sum(self._named(path, name) for name in names)
        self.known[path] = found
        return found

    def _named(self, path: tuple[Any, ...], name: str) -> int:
        """Count the values of `${name}`: from the root, or relative to the value if it has leading dots."""
        levels = len(name) - len(name.lstrip("."))
        node_path: tuple[Any, ...] = path[:-levels] if levels else ()
        for word in filter(None, re.split(r"[.\[\]]+", name)):
            is_index = word.isdigit() and isinstance(self._at(node_path), list)
            node_path = (*node_path, int(word) if is_index else word)
        found = self._at(node_path)
        return 1 if found is None else self.num_values(node_path, found)

    def _at(self, node_path: tuple[Any, ...]) -> Any:
        here: Any = self.config
        for step in node_path:
            try:
                here = here[step]
            except (KeyError, IndexError, TypeError):
                return None
        return here


def escape(value: Any) -> Any:
    """Escape "${" in resolved text, so that reading the file again does not interpolate it; references stay."""
    if isinstance(value, Reference):
        return value
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _mark_bad_grammar(value: Any) -> Any:
    """Return the data with `Unresolved` in place of text that OmegaConf rejects: an unclosed "${"."""
    if isinstance(value, dict):
        return {key: _mark_bad_grammar(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_bad_grammar(item) for item in value]
    if isinstance(value, str) and "${" in value:
        try:
            OmegaConf.create([value])
        except OmegaConfBaseException as error:
            return Unresolved(f"{value!r} is not a valid interpolation: {_first_line(error)}")
    return value


def _values(node: DictConfig | ListConfig, open_nodes: tuple[Any, ...], paths: tuple[str, ...]) -> Any:
    keys = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
    found = {key: _value(node, key, open_nodes, paths) for key in keys}
    return found if isinstance(node, DictConfig) else list(found.values())


def _value(node: Any, key: Any, open_nodes: tuple[Any, ...], paths: tuple[str, ...]) -> Any:
    if OmegaConf.is_missing(node, key):
        return MISSING
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        return _unresolved(error, paths)
    if not isinstance(value, (DictConfig, ListConfig)):
        return value
    if any(value is above for above in open_nodes):
        return Unresolved("contains itself (circular interpolation)")
    return _values(value, (*open_nodes, value), paths)


def _unresolved(error: OmegaConfBaseException, paths: tuple[str, ...]) -> Unresolved:
    line = _first_line(error)
    if isinstance(error, InterpolationToMissingValueError):
        return Unresolved(f"takes its value from {line.rpartition(' ')[2]}, which is still {MISSING}")
    if isinstance(error, InterpolationKeyError):
        key = (re.findall(r"'(.*)'", line) or [""])[0]
        return Unresolved(
            f"takes its value from {key!r}, which does not exist", nearest=nearest(key, paths), is_absent=True
        )
    if "Environment variable" in line:
        variable = (re.findall(r"'(.*)'", line) or [""])[0]
        hint = f"set it, or give a default: ${{oc.env:{variable},some-default}}"
        return Unresolved(f"the environment variable {variable} is not set", hint=hint)
    return Unresolved(f"cannot be interpolated: {line}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
