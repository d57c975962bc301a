"""Which modalities of a run may read features from the cache, and which sets of features they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.errors import DataError, Problem
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.feature_cache.config import FeatureCacheConfig
from chatbridge.datasets.feature_cache.record import FeatureRecord, changes, records
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import Encoder
from chatbridge.models.feature_cache import encoder_settings, file_print, pattern_for, weights_hash
from chatbridge.processors.description import description, library_versions
from chatbridge.processors.media_processor import with_limits

UNKNOWN = "its processor does not say what it draws at random (attribute `draws`, see MediaProcessor)"
BUILD = "build it: chatbridge cache CFG"


@dataclass(frozen=True)
class FeaturePlan:
    """How a run reads each modality of its model.

    decoders  modality -> the processor of training whose output is encoded, of those that use the cache
    reasons   modality -> why it is decoded and encoded in each step, of the others
    """

    settings: FeatureCacheConfig
    decoders: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """One per modality, for the log."""
        used = [f"feature cache: {name} from {self.settings.folder} ({self.settings.values})" for name in self.decoders]
        return used + [f"feature cache: not for {name}: {reason}" for name, reason in self.reasons.items()]


def plan_features(data: DataConfig, model: ModelConfig, settings: FeatureCacheConfig) -> FeaturePlan:
    """Modalities with a frozen encoder and without random choices, of those that the settings name."""
    plan = FeaturePlan(settings)
    for modality, route in model.routes.items():
        if settings.modalities is not None and modality not in settings.modalities:
            plan.reasons[modality] = "data.feature_cache.modalities does not name it"
            continue
        if (pattern := pattern_for(route.encoder, model.trainable)) is not None:
            plan.reasons[modality] = f"its encoder {route.encoder!r} is trained (model.trainable: {pattern!r})"
            continue
        try:
            decoder = model.encoders[route.encoder].config.processor(modality, True, route.pieces_config.count)
        except (ValueError, OSError) as error:  # files of the weights are missing: loading them reports it
            plan.reasons[modality] = f"its preprocessing cannot be read: {error}"
            continue
        decoder = with_limits(decoder, data.media)
        if (reason := getattr(decoder, "draws", UNKNOWN)) is not None:
            plan.reasons[modality] = reason
        else:
            plan.decoders[modality] = decoder
    return plan


def feature_record(
    plan: FeaturePlan, model: ModelConfig, modality: str, encoder: Encoder, dtype: torch.dtype, fingerprint: str
) -> FeatureRecord:
    """What the features of a modality are made from.

    encoder      with its weights, as it runs
    dtype        in which it computes
    fingerprint  see models.feature_cache.weights_hash
    """
    choice = model.encoders[model.routes[modality].encoder]
    weights = getattr(choice.config, "weights", None)
    files = {str(weights): file_print(weights)} if weights is not None else {}
    computed = {"fingerprint": fingerprint, "compute_dtype": str(dtype).removeprefix("torch.")}
    return FeatureRecord(
        modality,
        {**encoder_settings(choice), **computed},
        description(plan.decoders[modality]),
        encoder.num_tokens(modality),
        encoder.width,
        plan.settings.values,
        {"libraries": library_versions(), "files": files},
    )


def fingerprints(plan: FeaturePlan, model: ModelConfig, encoders: Mapping[str, Any]) -> dict[str, str]:
    """encoder -> the hash of its weights, of the encoders whose features are cached"""
    used = dict.fromkeys(model.routes[modality].encoder for modality in plan.decoders)
    return {name: weights_hash(encoders[name]) for name in used}


def feature_problems(data: DataConfig, model: ModelConfig) -> Iterator[Problem]:
    """What contradicts data.feature_cache, as far as it shows without weights."""
    settings = data.feature_cache
    if settings is None:
        return
    at = "data.feature_cache"
    plan = plan_features(data, model, settings)
    for modality in settings.modalities or ():
        if modality not in model.routes:
            yield Problem(f"{at}.modalities", f"names {modality}, for which the model has no route",
                          allowed=tuple(model.routes))  # fmt: skip
        elif modality in plan.reasons:
            hint = "remove it from the list; the run then encodes it in each step"
            yield Problem(f"{at}.modalities", f"names {modality}, but {plan.reasons[modality]}", hint=hint)
    if not plan.decoders:
        if settings.modalities is None:
            listed = "; ".join(f"{name}: {reason}" for name, reason in plan.reasons.items())
            yield Problem(at, f"has no effect, because no modality can use it ({listed})", hint="remove it")
        return
    yield from _folder_problems(plan, model)


def _folder_problems(plan: FeaturePlan, model: ModelConfig) -> Iterator[Problem]:
    """Problems of the folder, and modalities without a set of these settings and this preprocessing."""
    folder, at = plan.settings.folder, "data.feature_cache.folder"
    if not folder.exists():
        yield Problem(at, f"there is no folder {folder}", hint=BUILD)
        return
    try:
        found = records(folder)
    except DataError as error:
        yield Problem(at, str(error), hint="remove that set of features and build it again, or use a newer version")
        return
    if not found:
        yield Problem(at, f"{folder} is not a feature cache: no folder in it has a set.json", hint=BUILD)
        return
    for modality, decoder in plan.decoders.items():
        choice = model.encoders[model.routes[modality].encoder]
        now = {
            "encoder": encoder_settings(choice),
            "preprocessing": description(decoder),
            "values": plan.settings.values,
        }
        now = FeatureRecord(modality, now["encoder"], now["preprocessing"], 0, 0, plan.settings.values).identity
        then = [_without_weights(record) for record in found.values() if record.modality == modality]
        if now not in then:
            yield missing_set(folder, modality, now, then)


def _without_weights(record: FeatureRecord) -> dict[str, Any]:
    """The identity of a record as far as settings decide it."""
    encoder = {key: value for key, value in record.encoder.items() if key in ("class", "settings")}
    return {**record.identity, "encoder": encoder, "tokens": 0, "width": 0}


def missing_set(folder: Path, modality: str, now: Mapping[str, Any], then: list[dict[str, Any]]) -> Problem:
    """The problem of a cache without the features that a run needs: how the most similar ones differ."""
    at = "data.feature_cache.folder"
    if not then:
        return Problem(at, f"{folder} has no features of {modality}", hint=f"add them: {BUILD.partition(': ')[2]}")
    lines = min((list(changes(now, one)) for one in then), key=len)
    message = f"the features of {modality} in {folder} were made in another way"
    return Problem(
        at, message, hint="\n".join([*lines[:8], f"the old ones can stay; {BUILD.replace('it', 'new ones', 1)}"])
    )
