"""What contradicts data.feature_cache: settings, preprocessing, and weights files that others were in place of.

A run compares the hash of the weights themselves once it has loaded them (feature_cache/cached_processors.py). Before
that, a weights file that looks as it did at the build is trusted; one that does not is loaded here alone, so that a
cache of other weights is reported together with every other mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.feature_cache.command import build_hint
from chatbridge.datasets.feature_cache.record import FeatureRecord, changes, records
from chatbridge.experiment.feature_cache.feature_sets import FeaturePlan, plan_features
from chatbridge.models.adapters import linear_layers
from chatbridge.models.config import ModelConfig, may_match
from chatbridge.models.feature_cache import encoder_settings, file_print, load_encoders, weights_hash
from chatbridge.processors.description import description
from chatbridge.runners.config import RunConfig

AT = "data.feature_cache"


def feature_problems(data: DataConfig, model: ModelConfig, run: RunConfig) -> Iterator[Problem]:
    """Modalities that cannot be cached, a folder without what the run needs, and features of other weights."""
    settings = data.feature_cache
    if settings is None:
        return
    plan = plan_features(data, model, settings)
    for modality in settings.modalities or ():
        if modality not in model.routes:
            message = f"names {modality}, for which the model has no route"
            yield Problem(f"{AT}.modalities", message, allowed=tuple(model.routes))
        elif modality in plan.reasons:
            hint = "remove it from the list; the run then encodes it in each step"
            yield Problem(f"{AT}.modalities", f"names {modality}, but {plan.reasons[modality]}", hint=hint)
    yield from _wide_patterns(plan, model)
    if plan.decoders:
        yield from _folder_problems(plan, model, run)
    elif settings.modalities is None:
        listed = "; ".join(f"{name}: {reason}" for name, reason in plan.reasons.items())
        yield Problem(AT, f"has no effect, because no modality can use it ({listed})", hint="remove it")


def missing_set(folder: Path, modality: str, now: Mapping[str, Any], then: Sequence[Mapping[str, Any]]) -> Problem:
    """The problem of a cache without the features that a run needs: how the most similar ones differ.

    now, then   identities of sets of features
    """
    if not then:
        return Problem(f"{AT}.folder", f"{folder} has no features of {modality}", hint=build_hint("them"))
    lines = min((list(changes(now, one)) for one in then), key=len)
    message = f"the features of {modality} in {folder} were made in another way"
    ways = f"{build_hint('new ones')} (the old ones can stay)"
    return Problem(f"{AT}.folder", message, hint="\n".join([*lines[:8], ways]))


def _wide_patterns(plan: FeaturePlan, model: ModelConfig) -> Iterator[Problem]:
    """Patterns such as `*.norm.weight`, of which only the built encoder shows that they train a part of it."""
    for name in dict.fromkeys(model.routes[modality].encoder for modality in plan.decoders):
        at = f"encoders.{name}"
        wide = [pattern for pattern in model.trainable if may_match(pattern, at)]
        wide_targets = [one for adapter in model.adapters for one in adapter.targets if may_match(one, at)]
        if not wide and not wide_targets:
            continue
        try:
            with torch.device("meta"):
                encoder = model.encoders[name].part(model.encoders[name].config)
        except (ConfigError, ValueError, OSError, ImportError):  # reported when it is built
            continue
        tensors = [f"{at}.{one}" for one, _ in encoder.named_parameters()]
        layers = [text for one in linear_layers(encoder) for text in (f"{at}.{one}", f"{at}.{one}.weight")]
        for kind, patterns, names in (("trainable tensors", wide, tensors), ("adapters", wide_targets, layers)):
            if found := next((one for one in patterns if any(fnmatchcase(text, one) for text in names)), None):
                hint = f"name the other parts in place of {found!r}, or leave out data.feature_cache for this encoder"
                yield Problem(AT, f"cannot be used: the encoder {name!r} has {kind} ({found!r})", hint=hint)


def _folder_problems(plan: FeaturePlan, model: ModelConfig, run: RunConfig) -> Iterator[Problem]:
    """Problems of the folder, and modalities without a set of these settings, this preprocessing and these weights."""
    folder = plan.settings.folder
    if not folder.exists():
        yield Problem(f"{AT}.folder", f"there is no folder {folder}", hint=build_hint())
        return
    try:
        found = list(records(folder).values())
    except DataError as error:
        hint = "remove that set of features and build it again, or use a newer version"
        yield Problem(f"{AT}.folder", str(error), hint=hint)
        return
    if not found:
        yield Problem(
            f"{AT}.folder", f"{folder} is not a feature cache: no folder in it has a set.json", hint=build_hint()
        )
        return
    for modality, decoder in plan.decoders.items():
        encoder = encoder_settings(model.encoders[model.routes[modality].encoder])
        now = FeatureRecord(modality, encoder, description(decoder), 0, 0, plan.settings.values).identity
        alike = [one for one in found if one.modality == modality]
        fitting = [one for one in alike if _without_weights(one) == now]
        if not fitting:
            yield missing_set(folder, modality, now, [_without_weights(one) for one in alike])
        elif run.init_from is None:  # which may replace tensors of an encoder
            yield from _weight_problems(folder, model, modality, fitting)


def _weight_problems(
    folder: Path, model: ModelConfig, modality: str, fitting: Sequence[FeatureRecord]
) -> Iterator[Problem]:
    """A problem when the weights file is none that features were made with, and its tensors are others too."""
    name = model.routes[modality].encoder
    weights = getattr(model.encoders[name].config, "weights", None)
    if weights is None or not weights.exists():  # random weights, or a mistake that is reported elsewhere
        return
    known = {file: one for record in fitting for file, one in record.notes.get("files", {}).items()}
    if file_print(weights) in known.values():
        return
    then = {record.encoder["compute_dtype"]: record for record in fitting}
    try:
        now = {dtype: _fingerprint(model, name, dtype) for dtype in then}
    except ConfigError as error:
        yield from error.problems
        return
    if any(record.encoder["fingerprint"] == now[record.encoder["compute_dtype"]] for record in fitting):
        return
    dtype, record = next(iter(then.items()))
    was = f"the weights file {weights} has changed since" if str(weights) in known else (
        f"the features were made with {', '.join(known)}, the run uses {weights}")  # fmt: skip
    now_identity = {**record.identity, "encoder": {**record.encoder, "fingerprint": now[dtype]}}
    problem = missing_set(folder, modality, now_identity, [one.identity for one in fitting])
    yield Problem(problem.path, problem.message, hint=f"{was}\n{problem.hint}")


def _fingerprint(model: ModelConfig, name: str, dtype: str) -> str:
    """The hash of the weights of one encoder, in the dtype in which features were computed. raises ConfigError"""
    loaded = load_encoders(model, [name], torch.device("cpu"), getattr(torch, dtype), is_alone=True)
    return weights_hash(loaded.part(name))


def _without_weights(record: FeatureRecord) -> dict[str, Any]:
    """The identity of a record as far as settings decide it."""
    encoder = {key: value for key, value in record.encoder.items() if key in ("class", "settings")}
    return {**record.identity, "encoder": encoder, "tokens": 0, "width": 0}
