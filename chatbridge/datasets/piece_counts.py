"""The settings of a source for its pieces per media item (frames of a video, clips of audio)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chatbridge.common.errors import Problem, nearest
from chatbridge.conversation.modalities import MODALITIES

BY_NAME = {"frames": "video", "clips": "audio"}  # older settings of a source -> the modality they belong to


@dataclass(frozen=True)
class PieceCount:
    """Pieces per item of a modality; `setting` is the key below the source."""

    modality: str
    count: int
    setting: str


def piece_counts(config: Any) -> tuple[PieceCount, ...]:
    """The settings in the Config of a source, under `pieces` and under the older names."""
    old = ((modality, getattr(config, name, None), name) for name, modality in BY_NAME.items())
    new = ((modality, count, f"pieces.{modality}") for modality, count in getattr(config, "pieces", {}).items())
    return tuple(PieceCount(modality, count, name) for modality, count, name in (*old, *new) if count is not None)


def piece_count_of(config: Any, modality: str) -> PieceCount | None:
    """The setting of a source for one modality; None: the route decides."""
    return next((one for one in piece_counts(config) if one.modality == modality), None)


def piece_count_problems(config: Any) -> Iterator[Problem]:
    """Unknown modalities, and two settings for one."""
    counts = piece_counts(config)
    for one in counts:
        if one.modality not in MODALITIES:
            names = MODALITIES.names()
            hint = "write the modality and its number of pieces, for example pieces: {video: 4}"
            message = f"there is no modality named {one.modality!r}"
            yield Problem(one.setting, message, allowed=names, nearest=nearest(one.modality, names), hint=hint)
    for modality, times in Counter(one.modality for one in counts).items():
        if times > 1:
            given = [one.setting for one in counts if one.modality == modality]
            yield Problem(given[0], f"is given beside {given[1]}, which is the same setting; keep {given[1]}")
