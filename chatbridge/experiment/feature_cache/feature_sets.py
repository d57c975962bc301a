"""Which modalities of a run may read features from the cache, and which sets of features they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.feature_cache.config import FeatureCacheConfig
from chatbridge.datasets.feature_cache.record import FeatureRecord
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import Encoder
from chatbridge.models.feature_cache import encoder_settings, file_print, pattern_for, weights_hash
from chatbridge.processors.description import description, library_versions
from chatbridge.processors.media_processor import with_limits

UNKNOWN = "its processor does not say what it draws at random (attribute `draws`, see MediaProcessor)"


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
        targets = [pattern for adapter in model.adapters for pattern in adapter.targets]
        if (pattern := pattern_for(route.encoder, targets)) is not None:
            plan.reasons[modality] = f"its encoder {route.encoder!r} has adapters (model.adapters: {pattern!r})"
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
