"""How a model takes media in, from its settings alone: processors, and how many tokens an item becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.schema import parse
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.config import ImageConfig
from chatbridge.experiment.vocabulary import slot_tokens
from chatbridge.experiment.yaml_data import DataOfYaml
from chatbridge.models.bridges import BRIDGES, Bridge
from chatbridge.models.config import RouteConfig, with_background
from chatbridge.models.encoders import ENCODERS, Encoder
from chatbridge.models.fusion import FUSIONS, Fusion
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.model_without_files import ANY_WIDTH, with_known_files
from chatbridge.models.routes import Route
from chatbridge.processors.limits import Limits, with_limits

T = TypeVar("T")
GUESS = 32  # tokens of an item whose route cannot be built


@dataclass(frozen=True)
class Senses:
    """Per modality: what decodes it and how many places it takes in a row.

    notes        for people: what could not be taken from the model, and what stands in for it
    slot_tokens  modality -> the token in the slots of an item, where the fusion names one
    """

    train: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    lengths: Mapping[str, int]
    limits: Limits
    notes: tuple[str, ...] = ()
    slot_tokens: Mapping[str, str] = field(default_factory=dict)

    def processors(self, train: bool) -> Mapping[str, Any]:
        return self.train if train else self.evaluation


@dataclass(frozen=True, kw_only=True)
class _Parts:
    encoders: dict[str, Annotated[Choice[Encoder], PartOf(ENCODERS)]] = field(default_factory=dict)
    bridges: dict[str, Annotated[Choice[Bridge], PartOf(BRIDGES)]] = field(default_factory=dict)
    fusion: Annotated[Choice[Fusion], PartOf(FUSIONS)] = field(default_factory=lambda: _inline())
    routes: dict[str, RouteConfig] = field(default_factory=dict)


def _inline() -> Choice[Fusion]:
    return Choice("inline", Inline.Config(), Inline)


def read_senses(found: DataOfYaml) -> Senses:
    """Of the model of a file, with the weights that are there: a folder may say how media are read and how many tokens
    they become. Where a file describes no model, or one whose weights are needed to understand it and missing, media
    are read the common way, so that a command can still say whether they are sound."""
    node, absent = with_known_files({key: value for key, value in found.node("model").items() if key != "language"})
    learning, asking = _limits(found, "data"), _limits(found, "evaluation")
    notes = [] if found.node("model") else ["the file has no model: media are read as EVA-ViT and BEATs read them"]
    parts = _with_background(_readable(node, notes), found)
    train, evaluation = _processors(parts, True, learning, notes), _processors(parts, False, asking, notes)
    lengths = _lengths(parts, notes)
    if notes:
        train, evaluation = {**_common(learning, True), **train}, {**_common(asking, False), **evaluation}
        lengths = {**dict.fromkeys(MODALITIES.names(), GUESS), **lengths}
    if absent:
        notes.append(f"assumed from the settings, because these files are not there: {', '.join(absent)}")
    limits = learning if found.is_training else asking
    return Senses(train, evaluation, lengths, limits, tuple(dict.fromkeys(notes)), slot_tokens(found.node("model")))


def _limits(found: DataOfYaml, section: str) -> Limits:
    """Of data.media or evaluation.media; a fault in them is among the problems of the file."""
    try:
        return parse(Limits, found.node(section, "media"))
    except ConfigError:
        return Limits()


def _with_background(parts: _Parts, found: DataOfYaml) -> _Parts:
    """data.image.background, as a training run applies it."""
    try:
        background = parse(ImageConfig, found.node("data", "image")).background
    except ConfigError:
        return parts
    return parts if background is None else replace(parts, encoders=with_background(parts.encoders, background))


def _readable(node: Mapping[str, Any], notes: list[str]) -> _Parts:
    """The parts that can be understood, and the routes over them."""
    kept: dict[str, Any] = {}
    for kind in ("encoders", "bridges", "routes"):
        entries = node.get(kind)
        kept[kind] = {}
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            try:
                kept[kind] |= getattr(parse(_Parts, {kind: {name: _startable(kind, entry)}}), kind)
            except ConfigError as error:
                notes.append(f"model.{kind}.{name} cannot be understood yet: {error.problems[0].message}")
    routes = {modality: way for modality, way in kept["routes"].items()
              if way.encoder in kept["encoders"] and way.bridge in kept["bridges"]}  # fmt: skip
    fusion: dict[str, Any] = {}
    try:
        fusion = {"fusion": parse(_Parts, {"fusion": node["fusion"]}).fusion} if "fusion" in node else {}
    except ConfigError as error:
        notes.append(f"model.fusion cannot be understood: {error.problems[0].message}")
    return _Parts(encoders=kept["encoders"], bridges=kept["bridges"], routes=routes, **fusion)


def _startable(kind: str, entry: Any) -> Any:
    """An encoder that may start from random values does so when its weights are not there; its sizes are the same."""
    if kind != "encoders" or not isinstance(entry, Mapping) or "weights" in entry:
        return entry
    part: Any = ENCODERS.get(entry["name"]) if entry.get("name") in ENCODERS.names() else None
    has_random = part is not None and "random" in getattr(part.Config, "__dataclass_fields__", {})
    return {**entry, "random": True} if has_random else entry


def _processors(parts: _Parts, train: bool, limits: Limits, notes: list[str]) -> dict[str, Any]:
    found = {}
    for modality, way in parts.routes.items():
        try:
            processor = parts.encoders[way.encoder].config.processor(modality, train, way.pieces_config.count)
        except (ValueError, OSError) as error:  # one that reads its preprocessing from a folder of weights
            notes.append(f"{modality} is read as EVA-ViT and BEATs read it: {error}")
            continue
        found[modality] = with_limits(processor, limits)
    return found


def _lengths(parts: _Parts, notes: list[str]) -> dict[str, int]:
    """modality -> places of an item, from parts built without memory."""
    try:
        with torch.device("meta"):
            encoders = {name: choice.part(choice.config) for name, choice in parts.encoders.items()}
            bridges = {name: choice.part(choice.config, _widths(parts, name, encoders), ANY_WIDTH)
                       for name, choice in parts.bridges.items()}  # fmt: skip
            fusion = parts.fusion.part(parts.fusion.config, ANY_WIDTH)
        routes = {m: Route(m, encoders[way.encoder], bridges[way.bridge], way.pieces_config)
                  for m, way in parts.routes.items()}  # fmt: skip
        return {modality: fusion.num_slots(route.num_tokens) for modality, route in routes.items()}
    except (ValueError, OSError) as error:
        notes.append(f"the tokens of an item are not known ({error}); counted as {GUESS}")
        return dict.fromkeys(parts.routes, GUESS)


def _widths(parts: _Parts, bridge: str, encoders: Mapping[str, Encoder]) -> dict[str, int]:
    return {modality: encoders[way.encoder].width for modality, way in parts.routes.items() if way.bridge == bridge}


def _common(limits: Limits, train: bool) -> dict[str, Any]:
    """As EVA-ViT and BEATs read."""
    from chatbridge.processors.audio import AudioProcessor
    from chatbridge.processors.image import ImageProcessor
    from chatbridge.processors.video import VideoProcessor

    image = ImageProcessor(train=train)
    every = {"image": image, "video": VideoProcessor(image=image), "audio": AudioProcessor()}
    return {name: with_limits(one, limits) for name, one in every.items()}
