"""What the data, the model and the run of one configuration demand of each other, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from chatbridge.common.errors import Problem
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.shares import nearest_multiples
from chatbridge.datasets.sources import PIECES, DataConfig
from chatbridge.models.routes import Route
from chatbridge.models.settings import ModelConfig, RouteConfig
from chatbridge.runners.config import RunConfig


def batch_problems(data: DataConfig, run: RunConfig, num_ranks: int) -> Iterator[Problem]:
    """Sources whose own batch does not fall into equal micro-batches for all ranks."""
    parts = run.accumulate * num_ranks
    for name, batch in data.batches.items():
        if batch % parts:
            works = " or ".join(map(str, nearest_multiples(batch, parts)))
            message = f"is {batch}, which run.accumulate {run.accumulate} x {num_ranks} ranks cannot share evenly"
            hint = f"{works} would work; or change run.accumulate or the number of ranks"
            yield Problem(f"data.sources.{name}.batch", message, hint=hint)


def piece_problems(path: str, source: Any, model: ModelConfig) -> Iterator[Problem]:
    """Frames or clips of one source with which an item would not be what the model expects.

    path    of the source in the configuration
    source  its Config
    """
    for setting, modality in PIECES.items():
        count, route = getattr(source, setting, None), model.routes.get(modality)
        if count is None or route is None or count == route.pieces.count:
            continue
        usual, own = _tokens(model, modality, route.pieces.count, count)
        if usual != own:
            message = (
                f"is {count}, which makes {own} tokens, but an item of the route of {modality} has {usual} "
                f"(of {route.pieces.count} {setting})"
            )
            hint = "a bridge with a fixed number of tokens (qformer; linear or mlp with pool) takes any count"
            yield Problem(f"{path}.{setting}", message, hint=hint)
        for lack in _lacks(model, modality, route, count):
            yield Problem(f"{path}.{setting}", f"is {count}: model.bridges.{route.bridge}.{lack.path} {lack.message}")


def mixed_piece_problems(
    data: DataConfig, model: ModelConfig, opened: Mapping[str, Dataset] | None = None
) -> Iterator[Problem]:
    """In mix "sample" a batch holds several sources, so their items must be alike.

    opened  the sources, once they are open: some know only then what media they hold
    """
    if data.mix != "sample":
        return
    for setting, modality in PIECES.items():
        found: dict[int, list[str]] = {}
        for name, choice in data.sources.items():
            own = getattr(choice.config, setting)
            held = getattr(opened[name] if opened else choice.config, "modalities", (modality,) if own else ())
            if choice.config.weight and modality in held and modality in model.routes:
                found.setdefault(own or model.routes[modality].pieces.count, []).append(name)
        if len(found) > 1:
            listed = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(found.items()))
            message = f"is sample, which puts sources with different {setting} into one batch ({listed})"
            hint = f"mix: step and mix: micro keep sources apart; or give all the same {setting}"
            yield Problem("data.mix", message, hint=hint)


def _tokens(model: ModelConfig, modality: str, *counts: int) -> list[int]:
    """Tokens of an item for each number of pieces; zeros when the parts cannot be built, which the model reports."""
    route = model.routes[modality]
    encoder, bridge = model.encoders[route.encoder], model.bridges[route.bridge]
    try:
        with torch.device("meta"):
            reader = encoder.part(encoder.config)
            writer = bridge.part(bridge.config, {modality: reader.width}, 8)  # as many tokens for any width
        ways = [Route(modality, reader, writer, replace(route.pieces, count=count)) for count in counts]
        return [way.num_tokens for way in ways]
    except (ValueError, OSError, ImportError):
        return [0] * len(counts)


def _lacks(model: ModelConfig, modality: str, route: RouteConfig, count: int) -> Iterator[Problem]:
    if route.pieces.merge == "concat":
        yield from model.bridges[route.bridge].config.route_problems({modality: count})
