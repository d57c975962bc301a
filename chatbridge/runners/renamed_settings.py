"""Renames settings of an earlier run to the names a configuration uses now, so that a new name is not a change.

The pieces of a route are `pieces`, `frames` or `clips`; those of a source are `pieces: {video: 4}` or `frames: 4`.
`load_in_8bit` of the language model was `low_resource`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from chatbridge.datasets.piece_counts import BY_NAME
from chatbridge.models.config import PIECES_KEYS


def with_current_names(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """`then` with the names that `now` has for the same settings, and unchanged values."""
    renamed = copy.deepcopy(dict(then))
    language = renamed.get("model", {}).get("language", {})
    if "low_resource" in language:
        language["load_in_8bit"] = language.pop("low_resource")
    for old, new in _both(renamed, now, "model", "routes"):
        _rename_pieces_of_route(old, new)
    for old, new in _both(renamed, now, "data", "sources"):
        _rename_pieces_of_source(old, new)
    return renamed


def _both(then: Any, now: Any, *keys: str) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Pairs of entries that both sides have under the same name."""
    for key in keys:
        then = then.get(key) if isinstance(then, dict) else None
        now = now.get(key) if isinstance(now, Mapping) else None
    if isinstance(then, dict) and isinstance(now, Mapping):
        for name, entry in then.items():
            if isinstance(entry, dict) and isinstance(now.get(name), Mapping):
                yield entry, now[name]


def _rename_pieces_of_route(then: dict[str, Any], now: Mapping[str, Any]) -> None:
    old, new = (next((word for word in PIECES_KEYS if one.get(word) is not None), None) for one in (then, now))
    if old and new and old != new:
        then[old], then[new] = None, then[old]


def _rename_pieces_of_source(then: dict[str, Any], now: Mapping[str, Any]) -> None:
    for name, modality in BY_NAME.items():
        old, new = then.get("pieces") or {}, now.get("pieces") or {}
        if then.get(name) is not None and modality in new:
            then[name], then["pieces"] = None, {**old, modality: then[name]}
        elif modality in old and now.get(name) is not None:
            then[name] = old[modality]
            then["pieces"] = {key: count for key, count in old.items() if key != modality}
