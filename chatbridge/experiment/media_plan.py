"""How a model reads media, from its settings alone: the processors, and how many tokens an item becomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.schema import parse
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.config import ImageConfig
from chatbridge.experiment.opened import Opened, with_known_files
from chatbridge.models.bridges import BRIDGES, Bridge
from chatbridge.models.config import RouteConfig, with_background
from chatbridge.models.encoders import ENCODERS, Encoder
from chatbridge.models.fusion import FUSIONS, Fusion
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.routes import Route
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import with_limits
from chatbridge.processors.video import VideoProcessor

GUESS = 32  # tokens of an item whose route cannot be built
# Width of a language model that is not built. No token count depends on it; a part that checks it against its number of
# heads or groups should find that they divide it
ANY_WIDTH = 5040


@dataclass(frozen=True)
class MediaPlan:
    """Per modality: the processors, and the number of tokens of an item.

    notes        what could not be taken from the model, and what is used instead
    slot_tokens  modality -> the token in the slots of an item, where the fusion names one
    """

    train: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    lengths: Mapping[str, int]
    limits: Limits
    notes: tuple[str, ...] = ()
    slot_tokens: Mapping[str, str] = field(default_factory=dict)

    def processors(self, train: bool) -> Mapping[str, Any]:
        """modality -> its processor, for training or for evaluation"""
        return self.train if train else self.evaluation


@dataclass(frozen=True, kw_only=True)
class MediaParts:
    """The parts of a model that media pass through. A ModelConfig has the same fields, and more."""

    encoders: dict[str, Annotated[Choice[Encoder], PartOf(ENCODERS)]] = field(default_factory=dict)
    bridges: dict[str, Annotated[Choice[Bridge], PartOf(BRIDGES)]] = field(default_factory=dict)
    fusion: Annotated[Choice[Fusion], PartOf(FUSIONS)] = field(
        default_factory=lambda: Choice("inline", Inline.Config(), Inline)
    )
    routes: dict[str, RouteConfig] = field(default_factory=dict)


def planned_route(model: Any, modality: str) -> Route:
    """The route of a modality on the meta device: nothing is read, nothing takes memory.

    model   a ModelConfig or MediaParts
    raises  ValueError or OSError when a part cannot be built
    """
    way = model.routes[modality]
    encoder, bridge = model.encoders[way.encoder], model.bridges[way.bridge]
    with torch.device("meta"):
        reader = encoder.part(encoder.config)
        return Route(
            modality, reader, bridge.part(bridge.config, {modality: reader.width}, ANY_WIDTH), way.pieces_config
        )


def tokens_by_count(model: Any, modality: str, counts: Sequence[int]) -> list[int]:
    """Tokens of an item for each number of pieces; zeros when the route cannot be built, which the model reports."""
    try:
        route = planned_route(model, modality)
        pieces = [replace(route.pieces, count=count) for count in counts]
        return [Route(modality, route.encoder, route.bridge, one).num_tokens for one in pieces]
    except (ValueError, OSError, ImportError):
        return [0] * len(counts)


def planned_fusion(choice: Choice[Fusion]) -> Fusion:
    """The fusion on the meta device. raises ValueError"""
    with torch.device("meta"):
        return choice.part(choice.config, ANY_WIDTH)


def slot_tokens(fusion: Choice[Fusion], modalities: Iterable[str]) -> dict[str, str]:
    """modality -> the token in the slots of an item, where the fusion names one"""
    try:
        planned = planned_fusion(fusion)
        named = {modality: planned.slot_token(modality) for modality in modalities}
    except ValueError:  # building the model reports it
        return {}
    return {modality: token for modality, token in named.items() if token is not None}


def plan_media(opened: Opened[Any]) -> MediaPlan:
    """How the model of a file reads media, with the weights that are there: their folders may say how media are read
    and how many tokens they become. Where the file has no model, or one that needs absent weights to be understood,
    media are read the common way, so that a command can still check the files."""
    learning = opened.part(Limits, "data", "media") or Limits()
    asking = opened.part(Limits, "evaluation", "media") or Limits()
    notes = [] if opened.node("model") else ["the file has no model: media are read as EVA-ViT and BEATs read them"]
    parts, absent = media_parts(opened, notes)
    train, evaluation = _processors(parts, True, learning, notes), _processors(parts, False, asking, notes)
    lengths = dict(_lengths(parts, notes))
    if notes:
        train, evaluation = {**_common(learning, True), **train}, {**_common(asking, False), **evaluation}
        lengths = {**dict.fromkeys(MODALITIES.names(), GUESS), **lengths}
    if absent:
        notes.append(f"assumed from the settings, because these files are not there: {', '.join(absent)}")
    limits = learning if "data" in opened.mapping else asking
    slots = slot_tokens(parts.fusion, map(str, opened.node("model", "routes")))
    return MediaPlan(train, evaluation, lengths, limits, tuple(dict.fromkeys(notes)), slots)


def media_parts(opened: Opened[Any], notes: list[str]) -> tuple[MediaParts, list[str]]:
    """The parts that can be understood with the routes over them, and the weights that are not there.

    notes   gets a line for each part that cannot be understood
    """
    model = {key: value for key, value in opened.node("model").items() if key != "language"}
    node, absent = with_known_files(model)
    found: dict[str, dict[str, Any]] = {}
    for kind in ("encoders", "bridges", "routes"):
        entries, found[kind] = node.get(kind), {}
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            try:
                one = parse(MediaParts, {kind: {name: startable(kind, entry)}})
                found[kind] |= getattr(one, kind)
            except ConfigError as error:
                notes.append(f"model.{kind}.{name} cannot be understood yet: {error.problems[0].message}")
    routes = {modality: way for modality, way in found["routes"].items()
              if way.encoder in found["encoders"] and way.bridge in found["bridges"]}  # fmt: skip
    fusion: dict[str, Any] = {}
    try:
        fusion = {"fusion": parse(MediaParts, {"fusion": node["fusion"]}).fusion} if "fusion" in node else {}
    except ConfigError as error:
        notes.append(f"model.fusion cannot be understood: {error.problems[0].message}")
    encoders = found["encoders"]
    image = opened.part(ImageConfig, "data", "image")
    if image is not None and image.background is not None:  # as in training
        encoders = with_background(encoders, image.background)
    return MediaParts(encoders=encoders, bridges=found["bridges"], routes=routes, **fusion), absent


def startable(kind: str, entry: Any) -> Any:
    """An encoder that may start from random values does so when its weights are not there; its sizes are the same."""
    if kind != "encoders" or not isinstance(entry, Mapping) or "weights" in entry:
        return entry
    part: Any = ENCODERS.get(entry["name"]) if entry.get("name") in ENCODERS.names() else None
    has_random = part is not None and "random" in getattr(part.Config, "__dataclass_fields__", {})
    return {**entry, "random": True} if has_random else entry


def _processors(parts: MediaParts, train: bool, limits: Limits, notes: list[str]) -> dict[str, Any]:
    found = {}
    for modality, way in parts.routes.items():
        try:
            processor = parts.encoders[way.encoder].config.processor(modality, train, way.pieces_config.count)
        except (ValueError, OSError) as error:  # one that reads its preprocessing from a folder of weights
            notes.append(f"{modality} is read as EVA-ViT and BEATs read it: {error}")
            continue
        found[modality] = with_limits(processor, limits)
    return found


def _lengths(parts: MediaParts, notes: list[str]) -> Iterator[tuple[str, int]]:
    """modality, positions of an item in a token sequence"""
    for modality in parts.routes:
        try:
            yield modality, planned_fusion(parts.fusion).num_slots(planned_route(parts, modality).num_tokens)
        except (ValueError, OSError) as error:
            notes.append(f"the tokens of an item are not known ({error}); counted as {GUESS}")
            yield modality, GUESS


def _common(limits: Limits, train: bool) -> dict[str, Any]:
    """The processors of EVA-ViT and BEATs."""
    image = ImageProcessor(train=train)
    every = {"image": image, "video": VideoProcessor(image=image), "audio": AudioProcessor()}
    return {name: with_limits(one, limits) for name, one in every.items()}
