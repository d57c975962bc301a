"""What the processors of a model do to media, as a checkpoint records it.

Part of it comes from files beside the weights (a folder's preprocessor_config.json) or from a library's table (timm's
pretrained_cfg), so that equal settings in a YAML do not prove equal inputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from chatbridge.models.config import ModelConfig

# How fast, in which steps and how many of it media are read: settings of the run, not of the weights
_IGNORED = ("limits", "train", "lean", "antialias", "backend", "sampling", "num_frames", "num_clips", "background")
_NAMES = ("processor_class", "feature_extractor_type", "image_processor_type")  # of classes, which libraries rename


def preprocessing_of(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """encoder -> settings of its processor as plain values: pixels, mean, std, filter, crop; rate, mel bins, frames.

    An encoder whose files are not there is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for modality, route in config.routes.items():
        if route.encoder in found:
            continue
        try:
            processor = config.encoders[route.encoder].config.processor(modality, False, 1)
        except (ValueError, OSError):  # loading the weights says why
            continue
        found[route.encoder] = described(getattr(processor, "image", processor))  # the frames of a video
    return found


def described(processor: Any) -> dict[str, Any]:
    """Attributes of a processor that are numbers, text or lists of them; those of its parts as `part.name`."""
    return {key: value for key, value in sorted(_plain(vars(processor))) if key not in _IGNORED}


def preprocessing_changes(
    now: Mapping[str, Mapping[str, Any]], then: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any, Any]]:
    """encoder, setting, value now and then, of encoders and settings that both sides have."""
    for encoder, settings in now.items():
        before = then.get(encoder)
        for key, value in settings.items() if isinstance(before, Mapping) else ():
            if key in before and before[key] != value:
                yield encoder, key, value, before[key]


def changed_preprocessing(now: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> list[str]:
    """Lines of a table: what an encoder is shown now and was shown in training. Older manifests do not know."""
    changes = preprocessing_changes(now or {}, manifest.get("preprocessing", {}))
    return [f"  preprocessing of encoders.{name}: {key} {then} then, {value} now" for name, key, value, then in changes]


def _plain(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        if name.startswith("_"):
            continue
        if is_dataclass(value) and not isinstance(value, type) and name not in _IGNORED:
            yield from ((f"{name}.{key}", one) for key, one in _plain(asdict(value)))
        elif hasattr(value, "to_dict"):  # a feature extractor of transformers
            yield from ((f"{name}.{key}", one) for key, one in _plain(value.to_dict()) if key not in _NAMES)
        elif _is_plain(value):
            yield name, json.loads(json.dumps(value))  # as a manifest gives it back: tuples become lists


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 16 and all(map(_is_plain, value))  # not the filters and windows that follow from the rest
    return value is None or isinstance(value, (bool, int, float, str))
