"""Complete the settings of an earlier version with the defaults of settings added since."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse, plain


def with_added_settings(kind: type, then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return `then` with the defaults of settings that it lacks; settings without a default stay absent.

    then   settings as written by any earlier version; not parsed, since files may have moved and keys been removed
    now    valid settings of `kind`; parsed without the keys that `then` lacks, they provide the defaults
    """
    reduced, required = _common(now, then), []
    while True:
        try:
            defaults = plain(parse(kind, reduced))
        except ConfigError as error:
            found = [path for problem in error.problems if (path := _put_back(reduced, now, problem.path))]
            if not found:
                return copy.deepcopy(dict(then))
            required += found
        else:
            return _filled(then, _without(defaults, required))


def _common(now: Any, then: Any) -> Any:
    """Return `now` without the keys that `then` lacks."""
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return {key: _common(value, then[key]) for key, value in now.items() if key in then}
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [_common(one, before) for one, before in zip(now, then, strict=True)]
    return copy.deepcopy(now)


def _filled(then: Any, defaults: Any) -> Any:
    if isinstance(then, Mapping) and isinstance(defaults, Mapping):
        inner = {key: _filled(value, defaults[key]) if key in defaults else value for key, value in then.items()}
        return inner | {key: value for key, value in defaults.items() if key not in then}
    if isinstance(then, list) and isinstance(defaults, list) and len(then) == len(defaults):
        return [_filled(one, default) for one, default in zip(then, defaults, strict=True)]
    return then


def _put_back(reduced: dict[str, Any], now: Mapping[str, Any], path: str) -> str | None:
    """Restore the present value of a setting without a default; returns its path, None if nothing changes."""
    here: Any = reduced
    there: Any = now
    keys = path.split(".")
    for depth, key in enumerate(keys, start=1):
        if not isinstance(here, dict) or not isinstance(there, Mapping) or key not in there:
            return None
        if key not in here:
            here[key] = copy.deepcopy(there[key])
            return ".".join(keys[:depth])
        here, there = here[key], there[key]
    return None


def _without(settings: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    for path in paths:
        above, _, last = path.rpartition(".")
        node: Any = settings
        for key in above.split(".") if above else ():
            node = node.get(key, {})
        node.pop(last, None)
    return settings
