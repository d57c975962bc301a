"""The preprocessing of a model's media, as a checkpoint records it.

Some of it comes from files next to the weights (preprocessor_config.json) or from a library's table (timm's
pretrained_cfg), so equal YAML settings do not guarantee equal inputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from chatbridge.models.config import ModelConfig
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import VideoProcessor

# Settings of the run (speed, sampling, number of pieces) that do not belong to the weights
_IGNORED = (
    "limits",
    "train",
    "lean",
    "antialias",
    "backend",
    "sampling",
    "num_frames",
    "num_clips",
    "num_pieces",
    "background",
)
_NAMES = ("processor_class", "feature_extractor_type", "image_processor_type")  # class names, which libraries rename


def preprocessing_of(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Encoder -> the settings of its processor as plain values (size, mean, std, filter, crop; rate, mel bins, frames).

    Those of a second and third modality of an encoder begin with its name, unless they are images as well. An encoder
    with missing files is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for modality, route in config.routes.items():
        try:
            processor = config.encoders[route.encoder].config.processor(modality, False, route.pieces_config.count)
        except (ValueError, OSError):  # loading the weights reports the reason
            continue
        if route.encoder not in found:
            found[route.encoder] = described(getattr(processor, "image", processor))  # of a video: that of its frames
        elif (
            not isinstance(processor, ImageProcessor) and type(processor) is not VideoProcessor
        ):  # several kinds of input: ImageBind
            found[route.encoder] |= {f"{modality}.{key}": value for key, value in described(processor).items()}
    return found


def described(processor: Any) -> dict[str, Any]:
    """Attributes of a processor that are numbers, text or short lists of them; nested ones as `name.inner`."""
    return {key: value for key, value in sorted(_plain(vars(processor))) if key not in _IGNORED}


def preprocessing_changes(
    now: Mapping[str, Mapping[str, Any]], then: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any, Any]]:
    """Encoder, setting, current and recorded value of each difference; only what both sides have is compared."""
    for encoder, settings in now.items():
        before = then.get(encoder)
        if not isinstance(before, Mapping):
            continue
        for key, value in settings.items():
            if key in before and before[key] != value:
                yield encoder, key, value, before[key]


def changed_preprocessing(now: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> list[str]:
    """Table lines for preprocessing that differs from the training's. Older manifests do not record it."""
    changes = preprocessing_changes(now or {}, manifest.get("preprocessing", {}))
    return [f"  preprocessing of encoders.{name}: {key} {then} then, {value} now" for name, key, value, then in changes]


def _plain(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        if name.startswith("_"):
            continue
        if is_dataclass(value) and not isinstance(value, type) and name not in _IGNORED:
            yield from ((f"{name}.{key}", one) for key, one in _plain(asdict(value)))
        elif (to_dict := getattr(value, "to_dict", None)) is not None:  # a feature extractor of transformers
            yield from ((f"{name}.{key}", one) for key, one in _plain(to_dict()) if key not in _NAMES)
        elif _is_plain(value):
            yield name, json.loads(json.dumps(value))  # tuples become lists, as in a manifest that was read back


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 16 and all(map(_is_plain, value))  # longer lists are filters and windows, derived values
    return value is None or isinstance(value, (bool, int, float, str))
