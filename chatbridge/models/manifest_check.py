"""The settings of a YAML beside those that a checkpoint was trained with.

Equal names and shapes are not enough: another `pool`, number of queries, pixel mean or template loads without a
complaint and answers nonsense. Every setting that changes what a tensor means is compared.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.schema import parse, plain
from chatbridge.models.chat_template import template_strings
from chatbridge.models.checkpoint_manifest import UnusableCheckpoint, read_manifest
from chatbridge.models.checkpoints import find_checkpoint, refused
from chatbridge.models.config import ModelConfig
from chatbridge.models.older_checkpoints import with_settings_of_checkpoint
from chatbridge.models.preprocessing_record import preprocessing_changes, preprocessing_of
from chatbridge.models.setting_differences import Difference, difference_table, model_differences, template_differences

ModelFrom = Literal["yaml", "checkpoint"]


@dataclass(frozen=True)
class Reconciled:
    """What a model is built from once YAML and checkpoint agree.

    template   name and strings of the checkpoint's template, where its side is taken; None: the YAML's
    notes      for people: settings that differ and which side was taken
    """

    model: ModelConfig
    template: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def reconcile(
    model: ModelConfig, init_from: Path | None, model_from: ModelFrom | None, template: str | None = None
) -> Reconciled:
    """Compare the settings of a model with the checkpoint whose tensors it takes.

    model_from  whose side is taken where they differ; None: a difference is an error
    template    of the YAML, where it must be the checkpoint's (evaluation, chat); None: a new stage has its own
    raises      ConfigError with a table of the differences, or when the manifest cannot be read
    """
    manifest = _manifest(init_from)
    if "model" not in manifest:  # no checkpoint, a released file, or the model of a test
        return Reconciled(model)
    model, notes = with_settings_of_checkpoint(model, manifest["model"], model_from)
    settled = _settled(model, init_from, model_from, template, manifest)
    settled = replace(settled, notes=(*settled.notes, *notes))
    return _with_same_preprocessing(settled, init_from, model_from, manifest.get("preprocessing", {}))


def _settled(
    model: ModelConfig,
    init_from: Path | None,
    model_from: ModelFrom | None,
    template: str | None,
    manifest: Mapping[str, Any],
) -> Reconciled:
    mapping = plain(model)
    found = list(model_differences(mapping, manifest["model"]))
    if template is not None:
        found += template_differences(template, manifest.get("template", {}), template_strings(model, template))
    takes_all = model_from == "checkpoint" and template is not None
    taken = dict(manifest["template"]) if takes_all and manifest.get("template") else None
    if not found:
        return Reconciled(model, taken)
    rows = difference_table(found)
    if model_from is None:
        message = f"{init_from} was trained with other settings than this YAML has:"
        hint = [*rows, "take the checkpoint's side: run.model_from=checkpoint; or the YAML's: run.model_from=yaml"]
        raise ConfigError([Problem("run.init_from", message, hint="\n".join(hint))])
    notes = (f"settings differ, those of the {model_from} are taken (run.model_from):", *rows)
    if model_from == "yaml":
        return Reconciled(model, None, notes)
    for one in found:
        if one.keys:
            _take(mapping, manifest["model"], one.keys)
    return Reconciled(parse(ModelConfig, mapping, path="model"), taken, notes)


def _with_same_preprocessing(
    settled: Reconciled, init_from: Path | None, model_from: ModelFrom | None, then: Mapping[str, Any]
) -> Reconciled:
    """raises ConfigError when equal settings show an encoder other inputs than in training: files beside its weights,
    or the table of a library, are others"""
    changes = list(preprocessing_changes(preprocessing_of(settled.model), then)) if then else []
    if not changes:
        return settled
    found = [Difference(f"encoders.{name}: {key}", now, before) for name, key, now, before in changes]
    rows = difference_table(found, heads=("preprocessing", "now", "checkpoint"))
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
