"""Reconcile the settings of a YAML with those that a checkpoint was trained with.

Equal names and shapes are not enough: a different `pool`, pixel mean or template loads without an error and gives wrong
answers. Every setting that changes the meaning of a tensor is compared.
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
from chatbridge.models.checkpoints import find_checkpoint, is_run_or_checkpoint, refused
from chatbridge.models.config import ModelConfig
from chatbridge.models.older_checkpoints import with_settings_of_checkpoint
from chatbridge.models.preprocessing_record import preprocessing_changes, preprocessing_of
from chatbridge.models.setting_differences import Difference, difference_table, model_differences, template_differences

ModelFrom = Literal["yaml", "checkpoint"]


@dataclass(frozen=True)
class Reconciled:
    """The settings to build a model from.

    template   name and strings of the checkpoint's template if that is used; None: the YAML's template
    notes      for the log: settings that differ, and which side is used
    """

    model: ModelConfig
    template: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def reconcile(
    model: ModelConfig, init_from: Path | None, model_from: ModelFrom | None, template: str | None = None
) -> Reconciled:
    """Compare the settings of a model with those of the checkpoint it starts from.

    model_from  the side to use where they differ; None: a difference is an error
    template    template of the YAML if it must be the checkpoint's (evaluation, chat); None: it is not compared
    raises      ConfigError with a table of the differences, or when the manifest cannot be read
    """
    manifest = _manifest(init_from)
    if "model" not in manifest:  # no checkpoint, or a released file
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
        message = f"{init_from} was trained with settings that differ from this YAML:"
        hint = [*rows, "to use the checkpoint's, set run.model_from=checkpoint; to use the YAML's, run.model_from=yaml"]
        raise ConfigError([Problem("run.init_from", message, hint="\n".join(hint))])
    notes = (f"settings differ, those of the {model_from} are used (run.model_from):", *rows)
    if model_from == "yaml":
        return Reconciled(model, None, notes)
    for one in found:
        if one.keys:
            _take(mapping, manifest["model"], one.keys)
    return Reconciled(parse(ModelConfig, mapping, path="model"), taken, notes)


def _with_same_preprocessing(
    settled: Reconciled, init_from: Path | None, model_from: ModelFrom | None, then: Mapping[str, Any]
) -> Reconciled:
    """The same result with a note on changed preprocessing.

    raises   ConfigError when preprocessing differs although the settings are equal: a file next to the weights or the
             table of a library has changed
    """
    changes = list(preprocessing_changes(preprocessing_of(settled.model), then)) if then else []
    if not changes:
        return settled
    found = [Difference(f"encoders.{name}: {key}", now, before) for name, key, now, before in changes]
    rows = difference_table(found, heads=("preprocessing", "now", "checkpoint"))
    if model_from == "yaml":
        notes = (*settled.notes, "preprocessing differs from the training's (run.model_from: yaml):", *rows)
        return replace(settled, notes=notes)
    message = f"{init_from} was trained on media with different preprocessing:"
    ways = (
        "preprocessing is read from files next to the weights (preprocessor_config.json) or from a library's table: "
        "restore those of the training, or give the encoder these settings (mean, std, image_size, crop); "
        "run.model_from=yaml uses the current preprocessing"
    )
    raise ConfigError([Problem("run.init_from", message, hint="\n".join([*rows, ways]))])


def _manifest(init_from: Path | None) -> dict[str, Any]:
    """The manifest, or {} when there is none: a new model or a released file.

    raises   ConfigError for a folder without checkpoints, and a manifest that cannot be read
    """
    if init_from is None or not is_run_or_checkpoint(init_from):
        return {}
    try:
        checkpoint = find_checkpoint(init_from)
    except ValueError as error:
        raise ConfigError([Problem("run.init_from", str(error))]) from None
    try:
        return read_manifest(checkpoint)
    except UnusableCheckpoint as error:
        message, _, rest = str(refused(checkpoint, error)).partition("\n")
        raise ConfigError([Problem("run.init_from", message, hint=rest or None)]) from None


def _take(mapping: dict[str, Any], then: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Copy one setting, or a whole component of a different kind, from the checkpoint; files stay those of the YAML."""
    *above, last = keys
    node, source = mapping, then
    for key in above:
        node, source = node[key], source[key]
    before = node.get(last)  # a key that this version does not have is reported by `parse`, with the nearest one
    node[last] = copy.deepcopy(source[last])
    if last == "queries":
        node[last] = {**(before or {}), **node[last]}
    if isinstance(before, dict) and isinstance(node[last], dict) and before.get("name") == node[last].get("name"):
        node[last] |= {key: before[key] for key in ("weights", "tokenizer") if key in before}
