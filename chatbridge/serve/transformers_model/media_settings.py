"""The settings of encoders, bridges and routes, without a model around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.schema import parse
from chatbridge.models.bridges import BRIDGES, Bridge
from chatbridge.models.encoders import ENCODERS, Encoder
from chatbridge.models.route_config import RouteConfig

# What the processor gives the model, beside ids: modality -> name of its tensor
INPUT_NAMES = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
TYPE_IDS = "mm_token_type_ids"  # int64[B, L]: 0 text, n the placeholders of the n-th modality of `type_ids`


@dataclass(frozen=True, kw_only=True)
class MediaSettings:
    """The part of a `model:` section that reads media."""

    encoders: dict[str, Annotated[Choice[Encoder], PartOf(ENCODERS)]]
    bridges: dict[str, Annotated[Choice[Bridge], PartOf(BRIDGES)]]
    routes: dict[str, RouteConfig]

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> MediaSettings:
        """From {"encoders", "bridges", "routes"}. raises ConfigError with all problems"""
        return parse(cls, {"encoders": {}, "bridges": {}, "routes": {}, **settings})

    def modalities_of(self, encoder: str) -> frozenset[str]:
        """The modalities whose route leads to this encoder."""
        return frozenset(modality for modality, route in self.routes.items() if route.encoder == encoder)

    def processors(self) -> dict[str, Any]:
        """Modality -> what turns a media file into the model's input."""
        return {
            modality: self.encoders[route.encoder].config.processor(modality, False, route.pieces_config.count)
            for modality, route in self.routes.items()
        }


def type_ids(modalities: Mapping[str, Any]) -> dict[str, int]:
    """Modality -> its number in `mm_token_type_ids`: as in transformers 1 image, 2 video, 3 audio; then the others."""
    others = sorted(name for name in modalities if name not in INPUT_NAMES)
    return {name: number for number, name in enumerate((*INPUT_NAMES, *others), start=1) if name in modalities}


def input_name(modality: str) -> str:
    """The name of the model's input of a modality."""
    return INPUT_NAMES.get(modality, f"{modality}_values")


__all__ = ["INPUT_NAMES", "TYPE_IDS", "MediaSettings", "input_name", "type_ids"]
