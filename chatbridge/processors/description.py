"""Everything about a processor that decides its output, as JSON values: two that differ in it are not the same.

Stricter than what a checkpoint records (models/preprocessing_record.py), which leaves out what serves speed: here the
way to resize in training, the library that decodes videos and the rounding to uint8 count too.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from chatbridge.processors.limits import Limits

# Of a limit, whatever decides which part of a file is read, or whether it is used at all
LIMITS = ("max_pixels", "max_file_mb", "max_seconds", "too_long", "video_backend", "pixels")
LIBRARIES = ("torch", "torchvision", "torchaudio", "transformers", "pillow", "av", "decord", "torchcodec", "soundfile")


def description(processor: Any) -> dict[str, Any]:
    """Class and attributes, nested ones included, without the number of pieces, which belongs to the item.

    raises   ValueError for an attribute that cannot be described
    """
    return _described(processor, getattr(processor, "counted", None))


def library_versions() -> dict[str, str]:
    """The installed libraries that decode, resize and extract features."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _described(value: Any, without: str | None = None) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _described(one) for key, one in value.items()}
    if isinstance(value, Limits):
        return {key: one for key, one in asdict(value).items() if key in LIMITS}
    if isinstance(value, np.ndarray) or type(value).__module__.split(".")[0] == "torch":
        return _hash(value)
    if (to_dict := getattr(value, "to_dict", None)) is not None:  # a feature extractor of transformers
        return {"class": type(value).__name__, **_described(json.loads(json.dumps(to_dict(), default=str)))}
    if callable(value) and hasattr(value, "__qualname__"):  # a function of a plugin: its code is not looked at
        return f"{value.__module__}.{value.__qualname__}"
    own = getattr(value, "__dict__", None)
    if own is None:
        return _hash(value)
    named = {"limits": getattr(value, "limits", None), **own} if hasattr(value, "limits") else own
    kept = {key: one for key, one in named.items() if key != without}
    if isinstance(named.get("backend"), str):
        kept["backend"] = _backend(named["backend"], named.get("limits"))
    return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **_described(kept)}


def _backend(own: str, limits: Any) -> str:
    """The library that decodes: chosen by the processor, by the limits, or the first one that is installed."""
    from chatbridge.processors.video import installed_backend

    asked = own if own != "auto" else getattr(limits, "video_backend", "auto")
    return installed_backend() if asked == "auto" else asked


def _hash(value: Any) -> str:
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()[:16]
    except Exception:
        name = type(value).__name__
        raise ValueError(f"a {name} of the processor cannot be described, so its output cannot be identified") from None
