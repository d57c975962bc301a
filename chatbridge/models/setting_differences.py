"""The settings of a YAML that differ from those a checkpoint was trained with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.config.schema import plain
from chatbridge.conversation.templates import TEMPLATES, build_template
from chatbridge.models.config import PIECES_KEYS
from chatbridge.models.weight_files import FILE_SETTINGS

# Locations of files (their content is compared by fingerprint), initialisation, training-only settings, and storage
# formats of the same weights
IGNORED = (
    *FILE_SETTINGS, "template", "chat_template", "template_settings", "random", "output_std", "query_std",
    "weight_std", "new_queries", "dropout", "train_resize", "low_resource", "load_in_8bit",
    "load_in_4bit", "quantizer", "attention",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One setting with two values; `keys` is its path below `model`, empty for the template."""

    path: str
    yaml: Any
    checkpoint: Any
    keys: tuple[str, ...] = ()


def model_differences(mapping: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[Difference]:
    """The differences of components and routes that both sides have.

    A setting that did not exist in the checkpoint's version is not a difference.
    """
    for kind in ("encoders", "bridges"):
        for name, part in mapping.get(kind, {}).items():
            if name in then.get(kind, {}):
                yield from _part_differences((kind, name), part, then[kind][name])
    for kind in ("language", "fusion"):
        if isinstance(then.get(kind), dict):
            yield from _part_differences((kind,), mapping[kind], then[kind])
    yield from _token_differences(mapping.get("added_tokens", ()), then.get("added_tokens", ()))
    yield from _adapter_differences(mapping.get("adapters", ()), then.get("adapters", ()))
    for modality, route in mapping["routes"].items():
        before = then.get("routes", {}).get(modality)
        if isinstance(before, dict):
            yield from _route_differences(modality, route, before)


def _token_differences(own: Sequence[str], then: Sequence[str]) -> Iterator[Difference]:
    """Tokens that only one side has. Their order does not matter, and a checkpoint without any allows all."""
    for token in dict.fromkeys((*then, *own)) if then else ():
        if token not in own or token not in then:
            sides = (token if token in own else None, token if token in then else None)
            yield Difference("model.added_tokens", *sides, ("added_tokens",))


def _adapter_differences(own: Sequence[Mapping], then: Sequence[Mapping]) -> Iterator[Difference]:
    """Settings of adapters that differ. A checkpoint without any allows all: they start fresh beside its tensors."""
    for index, before in enumerate(then):
        path = f"model.adapters[{index}]"
        now = own[index] if index < len(own) else None
        if now is None:
            yield Difference(path, None, before, ("adapters",))
            continue
        for key, value in before.items():
            if key not in IGNORED and _listed(now.get(key)) != _listed(value):
                yield Difference(f"{path}.{key}", now.get(key), value, ("adapters",))
    for index in range(len(then), len(own)) if then else ():
        yield Difference(f"model.adapters[{index}]", own[index], None, ("adapters",))


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def template_differences(name: str, then: Mapping[str, Any], strings: Mapping[str, Any]) -> Iterator[Difference]:
    """The differences between the template `name` with arguments `strings` and the checkpoint's template."""
    if then.get("name") is None:
        return
    if then["name"] != name:
        yield Difference("template", name, then["name"])
        return
    config: Any = getattr(build_template(name, **strings), "config", None)
    own = plain(config) if config is not None else {}
    free = TEMPLATES.get(name).free_settings
    for key, value in then.items():
        if key in own and own[key] != value and key not in free:
            yield Difference(f"template.{key}", own[key], value)


def difference_table(
    differences: list[Difference], limit: int = 40, heads: tuple[str, str, str] = ("setting", "YAML", "checkpoint")
) -> list[str]:
    """Table lines with the columns setting, YAML, checkpoint; at most `limit` rows."""
    rows = [heads]
    rows += [(one.path, *_shown_pair(one.yaml, one.checkpoint)) for one in differences]
    widths = [max(len(row[column]) for row in rows[: limit + 1]) for column in range(3)]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    more = len(rows) - limit - 1
    return [*lines[: limit + 1], *([f"  ... and {more} more"] if more > 0 else [])]


def _part_differences(keys: tuple[str, ...], part: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[Difference]:
    path = ".".join(("model", *keys))
    if part.get("name") != then.get("name"):
        yield Difference(f"{path}.name", part.get("name"), then.get("name"), keys)
        return
    has_weights = keys == ("language",) and part.get("weights") is not None  # then config.json defines the sizes
    for key, value in then.items():
        if key in IGNORED or key == "name" or (has_weights and key == "architecture"):
            continue
        if key not in part or not _is_same(key, part[key], value):
            yield Difference(f"{path}.{key}", part.get(key), value, (*keys, key))


def _is_same(key: str, own: Any, then: Any) -> bool:
    """Whether two values are equivalent: extra modalities in `queries` do not matter, and the value of a ${reference}
    in an old manifest is unknown."""
    if isinstance(then, str) and "${" in then:
        return True
    if key == "queries" and isinstance(own, Mapping) and isinstance(then, Mapping) and own and then:
        return all(own[modality] == then[modality] for modality in own.keys() & then.keys())
    return own == then


def _route_differences(modality: str, route: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[Difference]:
    own, before = _normal(route), _normal(then)
    changed = [key for key in before if own.get(key) != before[key]]
    for key in changed:
        yield Difference(f"model.routes.{modality}.{key}", own.get(key), before[key], ("routes", modality))


def _normal(route: Mapping[str, Any]) -> dict[str, Any]:
    """A route with one name for its pieces setting, and with its defaults."""
    pieces = next((route[word] for word in PIECES_KEYS if route.get(word)), {})
    rest = {key: value for key, value in route.items() if key not in PIECES_KEYS}
    return {**rest, "pieces.count": pieces.get("count", 1), "pieces.merge": pieces.get("merge", "concat")}


def _shown_pair(yaml: Any, checkpoint: Any) -> tuple[str, str]:
    """Both values as text; long ones begin shortly before the first difference."""
    texts = [json.dumps(value, ensure_ascii=False, default=str) for value in (yaml, checkpoint)]
    same = next((at for at, (one, other) in enumerate(zip(*texts)) if one != other), min(map(len, texts)))
    start = max(0, same - 10) if max(map(len, texts)) > 40 and same > 20 else 0
    return _shown(texts[0], start), _shown(texts[1], start)


def _shown(text: str, start: int) -> str:
    before, rest = "..." if start else "", text[start:]
    return before + (rest if len(before + rest) <= 40 else f"{rest[: 37 - len(before)]}...")
