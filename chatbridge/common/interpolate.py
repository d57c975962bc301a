"""`${run.output_dir}/media` and `${oc.env:HOME}`: values taken from other values, by OmegaConf."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, OmegaConfBaseException

from chatbridge.common.errors import nearest
from chatbridge.common.origins import MISSING, Origins, Unresolved


def interpolate(config: dict[str, Any], origins: Origins) -> dict[str, Any]:
    """Every ${...} replaced by its value, or by `Unresolved`."""
    tree = OmegaConf.create(_mark_bad_grammar(config), flags={"allow_objects": True})
    return _values(tree, (tree,), tuple(origins))


def escape(value: Any) -> Any:
    """A "${" that is text by now must not be interpolated when the file is read again."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _mark_bad_grammar(value: Any) -> Any:
    """The same data with `Unresolved` where OmegaConf would refuse to build: an unclosed "${"."""
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
        return Unresolved("contains itself (an interpolation in a circle)")
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
