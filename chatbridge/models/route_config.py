"""The settings of a route: encoder and bridge of one modality, and the pieces of its items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from chatbridge.config.constraints import Range

PIECES_KEYS = ("pieces", "frames", "clips")  # three names of the same setting of a route


@dataclass(frozen=True, kw_only=True)
class PiecesConfig:
    """Number of pieces of an item (frames of a video, clips of audio), and how their tokens are merged."""

    count: Annotated[int, Range(low=1)] = 1
    # concat: the bridge reads the features of all pieces at once. separate: it reads each piece alone, and an item has
    # `count` times as many tokens. mean: it reads each piece alone, and an item has the mean of their tokens, so any
    # number of pieces gives the same number of tokens. mean_features: it reads the mean of the features of all pieces,
    # as ImageBind averages its clips; for a linear bridge equal to mean, at the cost of one piece
    merge: Literal["concat", "separate", "mean", "mean_features"] = "concat"


@dataclass(frozen=True, kw_only=True)
class RouteConfig:
    """Encoder and bridge of one modality; two routes that name the same component share it."""

    encoder: str  # a key of model.encoders
    bridge: str  # a key of model.bridges
    pieces: PiecesConfig | None = None
    frames: PiecesConfig | None = None  # the same setting, named for video
    clips: PiecesConfig | None = None  # the same setting, named for audio

    @property
    def pieces_config(self) -> PiecesConfig:
        """The pieces setting, under whichever key it is given."""
        return self.pieces or self.frames or self.clips or PiecesConfig()

    @property
    def pieces_key(self) -> str:
        """The key under which the pieces setting is given."""
        return next((key for key in PIECES_KEYS if getattr(self, key) is not None), PIECES_KEYS[0])

    def problems(self) -> Iterator[str]:
        given = [key for key in PIECES_KEYS if getattr(self, key) is not None]
        if len(given) > 1:
            yield f"has {' and '.join(given)}, which are names of one setting; keep {given[0]}"


__all__ = ["PIECES_KEYS", "PiecesConfig", "RouteConfig"]
