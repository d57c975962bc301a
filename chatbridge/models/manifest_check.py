"""The settings of a YAML beside those that a checkpoint was trained with.

Equal names and shapes are not enough: another `pool`, number of queries, pixel mean or template loads without a
complaint and answers nonsense. Every setting that changes what a tensor means is compared.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.schema import parse, plain
from chatbridge.conversation.templates import build_template
from chatbridge.models.added_settings import with_settings_of_then
from chatbridge.models.chat_template import template_strings
from chatbridge.models.checkpoints import UnusableCheckpoint, find_checkpoint, read_manifest, refused
from chatbridge.models.config import PIECES_WORDS, ModelConfig
from chatbridge.models.preprocessing_record import preprocessing_changes, preprocessing_of

ModelFrom = Literal["yaml", "checkpoint"]
# Where files are (their content is compared by fingerprint), how values start, what only training does, and how the
# same weights are held
IGNORED = (
    "weights", "norm_weights", "tokenizer", "template", "chat_template", "random", "output_std", "query_std",
    "weight_std", "new_queries", "dropout", "train_resize", "low_resource", "load_in_8bit",
    "attention",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One setting; `keys` is its place below `model`, empty for the template."""

    path: str
    yaml: Any
    checkpoint: Any
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settled:
    """What a model is built from once YAML and checkpoint agree.

    template   name and strings of the checkpoint's template, where its side is taken; None: the YAML's
    notes      for people: settings that differ and which side was taken
    """

    model: ModelConfig
    template: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def settle(
    model: ModelConfig, init_from: Path | None, model_from: ModelFrom | None, template: str | None = None
) -> Settled:
    """Compare the settings of a model with the checkpoint whose tensors it takes.

    model_from  whose side is taken where they differ; None: a difference is an error
    template    of the YAML, where it must be the checkpoint's (evaluation, chat); None: a new stage has its own
    raises      ConfigError with a table of the differences, or when the manifest cannot be read
    """
    manifest = _manifest(init_from)
    if "model" not in manifest:  # no checkpoint, a released file, or the model of a test
        return Settled(model)
    model, notes = with_settings_of_then(model, manifest["model"], model_from)
    settled = _settled(model, init_from, model_from, template, manifest)
    settled = replace(settled, notes=(*settled.notes, *notes))
    return _with_same_preprocessing(settled, init_from, model_from, manifest.get("preprocessing", {}))


def _settled(
    model: ModelConfig,
    init_from: Path | None,
    model_from: ModelFrom | None,
    template: str | None,
    manifest: Mapping[str, Any],
) -> Settled:
    mapping = plain(model)
    found = list(model_differences(mapping, manifest["model"]))
    if template is not None:
        found += template_differences(template, manifest.get("template", {}), template_strings(model, template))
    takes_all = model_from == "checkpoint" and template is not None
    taken = dict(manifest["template"]) if takes_all and manifest.get("template") else None
    if not found:
        return Settled(model, taken)
    rows = table(found)
    if model_from is None:
        message = f"{init_from} was trained with other settings than this YAML has:"
        hint = [*rows, "take the checkpoint's side: run.model_from=checkpoint; or the YAML's: run.model_from=yaml"]
        raise ConfigError([Problem("run.init_from", message, hint="\n".join(hint))])
    notes = (f"settings differ, those of the {model_from} are taken (run.model_from):", *rows)
    if model_from == "yaml":
        return Settled(model, None, notes)
    for one in found:
        if one.keys:
            _take(mapping, manifest["model"], one.keys)
    return Settled(parse(ModelConfig, mapping, path="model"), taken, notes)


def _with_same_preprocessing(
    settled: Settled, init_from: Path | None, model_from: ModelFrom | None, then: Mapping[str, Any]
) -> Settled:
    """raises ConfigError when equal settings show an encoder other inputs than in training: files beside its weights,
    or the table of a library, are others"""
    changes = list(preprocessing_changes(preprocessing_of(settled.model), then)) if then else []
    if not changes:
        return settled
    found = [Difference(f"encoders.{name}: {key}", now, before) for name, key, now, before in changes]
    rows = table(found, heads=("preprocessing", "now", "checkpoint"))
    if model_from == "yaml":
        notes = (*settled.notes, "preprocessing differs from the training's (run.model_from: yaml):", *rows)
        return replace(settled, notes=notes)
    message = f"{init_from} was trained on media that were prepared otherwise:"
    ways = (
        "it comes from files beside the weights (preprocessor_config.json) or from a library's table, so restore those "
        "of the training, or give the encoder these settings (mean, std, image_size, crop); run.model_from=yaml goes "
        "on with what is there now"
    )
    raise ConfigError([Problem("run.init_from", message, hint="\n".join([*rows, ways]))])


def model_differences(mapping: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[Difference]:
    """Of the parts and routes that both sides have; a setting that the checkpoint's version did not know is no
    difference."""
    for kind in ("encoders", "bridges"):
        for name, part in mapping.get(kind, {}).items():
            if name in then.get(kind, {}):
                yield from _part_differences((kind, name), part, then[kind][name])
    for kind in ("language", "fusion"):
        if isinstance(then.get(kind), dict):
            yield from _part_differences((kind,), mapping[kind], then[kind])
    yield from _token_differences(mapping.get("added_tokens", ()), then.get("added_tokens", ()))
    for modality, route in mapping["routes"].items():
        before = then.get("routes", {}).get(modality)
        if isinstance(before, dict):
            yield from _route_differences(modality, route, before)


def _token_differences(own: Sequence[str], then: Sequence[str]) -> Iterator[Difference]:
    """Tokens that one side alone has; their order is free, and a checkpoint without any fixes none."""
    for token in dict.fromkeys((*then, *own)) if then else ():
        if token not in own or token not in then:
            sides = (token if token in own else None, token if token in then else None)
            yield Difference("model.added_tokens", *sides, ("added_tokens",))


def template_differences(name: str, then: Mapping[str, Any], strings: Mapping[str, Any]) -> Iterator[Difference]:
    if then.get("name") is None:
        return
    if then["name"] != name:
        yield Difference("template", name, then["name"])
        return
    config: Any = getattr(build_template(name, **strings), "config", None)
    own = plain(config) if config is not None else {}
    for key, value in then.items():
        if key in own and own[key] != value:
            yield Difference(f"template.{key}", own[key], value)


def table(
    differences: list[Difference], limit: int = 40, heads: tuple[str, str, str] = ("setting", "YAML", "checkpoint")
) -> list[str]:
    """Lines: setting, YAML, checkpoint."""
    rows = [heads]
    rows += [(one.path, *_shown_pair(one.yaml, one.checkpoint)) for one in differences]
    widths = [max(len(row[column]) for row in rows[: limit + 1]) for column in range(3)]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    more = len(rows) - limit - 1
    return [*lines[: limit + 1], *([f"  ... and {more} more"] if more > 0 else [])]


def _manifest(init_from: Path | None) -> dict[str, Any]:
    """Empty where there is none: no start, a released file, or a folder without checkpoints, which the load reports."""
    if init_from is None or not init_from.is_dir():
        return {}
    try:
        checkpoint = find_checkpoint(init_from)
    except ValueError:
        return {}
    try:
        return read_manifest(checkpoint)
    except UnusableCheckpoint as error:
        message, _, rest = str(refused(checkpoint, error)).partition("\n")
        raise ConfigError([Problem("run.init_from", message, hint=rest or None)]) from None


def _part_differences(keys: tuple[str, ...], part: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[Difference]:
    path = ".".join(("model", *keys))
    if part.get("name") != then.get("name"):
        yield Difference(f"{path}.name", part.get("name"), then.get("name"), keys)
        return
    has_weights = keys == ("language",) and part.get("weights") is not None  # then its files say how it is built
    for key, value in then.items():
        if key in IGNORED or key == "name" or (has_weights and key == "architecture"):
            continue
        if key not in part or not _is_same(key, part[key], value):
            yield Difference(f"{path}.{key}", part.get(key), value, (*keys, key))


def _is_same(key: str, own: Any, then: Any) -> bool:
    """A modality that one side adds changes nothing for the others; what a ${reference} stood for is not known."""
    if isinstance(then, str) and "${" in then:
        return True
    if key == "queries" and own and then:
        return all(own[modality] == then[modality] for modality in own.keys() & then.keys())
    return own == then


def _route_differences(modality: str, route: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[Difference]:
    own, before = _normal(route), _normal(then)
    changed = [key for key in before if own.get(key) != before[key]]
    for key in changed:
        yield Difference(f"model.routes.{modality}.{key}", own.get(key), before[key], ("routes", modality))


def _normal(route: Mapping[str, Any]) -> dict[str, Any]:
    """One setting has several names, and defaults."""
    pieces = next((route[word] for word in PIECES_WORDS if route.get(word)), {})
    rest = {key: value for key, value in route.items() if key not in PIECES_WORDS}
    return {**rest, "pieces.count": pieces.get("count", 1), "pieces.merge": pieces.get("merge", "concat")}


def _take(mapping: dict[str, Any], then: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Copy one setting, or a whole part of another kind, from the checkpoint's side; files stay those of the YAML."""
    *above, last = keys
    node, source = mapping, then
    for key in above:
        node, source = node[key], source[key]
    before, node[last] = node[last], copy.deepcopy(source[last])
    if last == "queries":
        node[last] = {**before, **node[last]}
    if isinstance(before, dict) and isinstance(node[last], dict) and before.get("name") == node[last].get("name"):
        node[last] |= {key: before[key] for key in ("weights", "tokenizer") if key in before}


def _shown_pair(yaml: Any, checkpoint: Any) -> tuple[str, str]:
    """Both values, long ones from shortly before the place where they begin to differ."""
    texts = [json.dumps(value, ensure_ascii=False, default=str) for value in (yaml, checkpoint)]
    same = next((at for at, (one, other) in enumerate(zip(*texts)) if one != other), min(map(len, texts)))
    start = max(0, same - 10) if max(map(len, texts)) > 40 and same > 20 else 0
    return _shown(texts[0], start), _shown(texts[1], start)


def _shown(text: str, start: int) -> str:
    before, rest = "..." if start else "", text[start:]
    return before + (rest if len(before + rest) <= 40 else f"{rest[: 37 - len(before)]}...")
