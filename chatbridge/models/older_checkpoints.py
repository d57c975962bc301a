"""Encoder settings that older checkpoints do not record, where today's default differs from what they used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatbridge.config.schema import parse, plain
from chatbridge.models.config import ModelConfig

FORMER_CHANNELS = "first"  # `channels` of every version before this setting existed


def with_settings_of_checkpoint(
    model: ModelConfig, then: Mapping[str, Any], model_from: str | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The model with media read as by the checkpoint's version, and notes for the log.

    then        settings of the model in the checkpoint's manifest
    model_from  only `checkpoint` changes a setting; otherwise a note reports the former value
    """
    mapping, notes = plain(model), []
    for name, part in mapping["encoders"].items():
        before = then.get("encoders", {}).get(name, {})
        if before.get("name") != part["name"]:
            continue
        place = f"model.encoders.{name}"
        if part.get("channels", FORMER_CHANNELS) != FORMER_CHANNELS and "channels" not in before:
            was = "the checkpoint was written before this setting existed and used only the first channel"
            if model_from == "checkpoint":
                part["channels"] = FORMER_CHANNELS
                notes.append(f"{place}.channels: {FORMER_CHANNELS} is used: {was}")
            else:
                notes.append(f"{place}.channels is {part['channels']}: {was}")
        if "background" in part and "background" not in before:
            was = "none (transparency is dropped) or white; only transparent images are affected"
            notes.append(f"{place}.background is {part['background']}: the checkpoint does not record it; it was {was}")
    is_changed = any("is used" in note for note in notes)
    return parse(ModelConfig, mapping, path="model") if is_changed else model, tuple(notes)
