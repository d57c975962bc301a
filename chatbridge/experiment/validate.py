"""What the data, the model and the run of one configuration demand of each other, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from chatbridge.common.errors import Problem
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.shares import nearest_multiples
from chatbridge.datasets.piece_counts import piece_count_of, piece_counts
from chatbridge.models.config import ModelConfig, RouteConfig
from chatbridge.models.model_without_files import ANY_WIDTH
from chatbridge.models.routes import Route
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
    """Pieces (frames, clips) of one source with which an item would not be what the model expects.

    path    of the source in the configuration
    source  its Config
    """
    for one in piece_counts(source):
        count, modality, route = one.count, one.modality, model.routes.get(one.modality)
        if route is None or count == route.pieces_config.count:
            continue
        usual, own = _tokens(model, modality, route.pieces_config.count, count)
        if usual != own:
            message = (
                f"is {count}, which makes {own} tokens, but an item of the route of {modality} has {usual} "
                f"(of {route.pieces_config.count} {MODALITIES.get(modality).pieces})"
            )
            hint = "a bridge with a fixed number of tokens (qformer; linear or mlp with pool) takes any count"
            yield Problem(f"{path}.{one.setting}", message, hint=hint)
        for lack in _lacks(model, modality, route, count):
            yield Problem(
                f"{path}.{one.setting}", f"is {count}: model.bridges.{route.bridge}.{lack.path} {lack.message}"
            )


def mixed_piece_problems(
    data: DataConfig, model: ModelConfig, opened: Mapping[str, Dataset] | None = None
) -> Iterator[Problem]:
    """In mix "sample" a batch holds several sources, so their items must be alike.

    opened  the sources, once they are open: some know only then what media they hold
    """
    if data.mix != "sample":
        return
    for modality, route in model.routes.items():
        found: dict[int, list[str]] = {}
        for name, choice in data.sources.items():
            own = piece_count_of(choice.config, modality)
            held = getattr(opened[name] if opened else choice.config, "modalities", (modality,) if own else ())
            if choice.config.weight and modality in held:
                found.setdefault(own.count if own else route.pieces_config.count, []).append(name)
        if len(found) > 1:
            listed = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(found.items()))
            pieces = MODALITIES.get(modality).pieces
            message = f"is sample, which puts sources with different {pieces} into one batch ({listed})"
            hint = f"mix: step and mix: micro keep sources apart; or give all the same {pieces}"
            yield Problem("data.mix", message, hint=hint)


def _tokens(model: ModelConfig, modality: str, *counts: int) -> list[int]:
    """Tokens of an item for each number of pieces; zeros when the parts cannot be built, which the model reports."""
    route = model.routes[modality]
    encoder, bridge = model.encoders[route.encoder], model.bridges[route.bridge]
    try:
        with torch.device("meta"):
            reader = encoder.part(encoder.config)
            writer = bridge.part(bridge.config, {modality: reader.width}, ANY_WIDTH)
        ways = [Route(modality, reader, writer, replace(route.pieces_config, count=count)) for count in counts]
        return [way.num_tokens for way in ways]
    except (ValueError, OSError, ImportError):
        return [0] * len(counts)


def _lacks(model: ModelConfig, modality: str, route: RouteConfig, count: int) -> Iterator[Problem]:
    if route.pieces_config.merge == "concat":
        yield from model.bridges[route.bridge].config.route_problems({modality: count})
