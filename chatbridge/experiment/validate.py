"""What the sections of one configuration require of each other, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from chatbridge.common.errors import Problem, nearest
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.shares import nearest_multiples
from chatbridge.datasets.piece_counts import piece_count_of, piece_count_problems, piece_counts
from chatbridge.experiment.media_plan import tokens_by_count
from chatbridge.experiment.validate_adapters import adapter_run_problems
from chatbridge.experiment.validate_batching import batching_problems
from chatbridge.experiment.validate_features import feature_problems
from chatbridge.experiment.validate_levers import dtype_problems, lever_problems
from chatbridge.experiment.validate_shard import sharding_problems
from chatbridge.models.checkpoints import checkpoints
from chatbridge.models.config import ModelConfig, RouteConfig, has_background
from chatbridge.models.language.answer_options import AnswerOptions
from chatbridge.runners.config import ComputeConfig, RunConfig, ranks_planned
from chatbridge.tasks import TASKS
from chatbridge.tasks.config import EvaluationConfig


def missing_template(path: str) -> Problem:
    """The problem of a configuration in which neither `path` nor the language model names a chat template."""
    return Problem(path, "is missing, and the language model names none", allowed=TEMPLATES.names())


def training_problems(data: DataConfig, model: ModelConfig, run: RunConfig) -> Iterator[Problem]:
    """Problems between the data, the model and the steps of a training run."""
    if not model.trainable and not model.adapters:
        hint = 'name the parameters to train, for example ["bridges.*"], or give model.adapters'
        yield Problem("model.trainable", "is empty: no parameter would be trained", hint=hint)
    if data.image.background is not None and not any(map(has_background, model.encoders.values())):
        yield Problem("data.image.background", "has no effect: no encoder of this model has a background")
    yield from batch_problems(data, run, ranks_planned())
    yield from batching_problems(data, model)
    yield from feature_problems(data, model, run)
    yield from mixed_piece_problems(data, model)
    yield from lever_problems(model, run)
    yield from dtype_problems(model, run, run.parallel == "shard", data.feature_cache is not None)
    yield from adapter_run_problems(model, run)
    yield from sharding_problems(model, run)
    for name, choice in data.sources.items():
        yield from unrouted(f"data.sources.{name}", choice.config, model)
        yield from piece_problems(f"data.sources.{name}", choice.config, model)


def evaluation_problems(
    evaluation: EvaluationConfig, model: ModelConfig, run: ComputeConfig | None = None
) -> Iterator[Problem]:
    """Problems between the tasks and the model.

    run     of a configuration that only evaluates: it needs a task, and a folder that is not a training run's
    """
    if run is not None:
        yield from dtype_problems(model, run)
        if not evaluation.tasks:
            yield Problem("evaluation.tasks", "is empty; name at least one task", allowed=TASKS.names())
        if checkpoints((folder := run.output_dir) / "checkpoints"):
            message = f"is {folder}, the folder of a training run: its resolved.yaml would be overwritten"
            yield Problem("run.output_dir", message, hint=f"choose another folder, for example {folder / 'eval'}")
    for name, choice in evaluation.tasks.items():
        for dropped in choice.config.drop_media:
            if dropped not in MODALITIES:
                names = MODALITIES.names()
                message, place = f"there is no modality named {dropped!r}", f"evaluation.tasks.{name}.drop_media"
                yield Problem(place, message, allowed=names, nearest=nearest(dropped, names))
        for one in choice.config.drawing_problems(model.generator is not None, is_training=run is None):
            yield replace(one, path=f"evaluation.tasks.{name}.{one.path}")
        path, source = f"evaluation.tasks.{name}.dataset", choice.config.dataset.config
        yield from unrouted(path, source, model)
        yield from (replace(one, path=f"{path}.{one.path}") for one in piece_count_problems(source))
        yield from piece_problems(path, source, model)


def beam_problems(generation: AnswerOptions, model: ModelConfig) -> Iterator[Problem]:
    """Beams of a chat beside a generator of images."""
    if model.generator is not None and generation.num_beams > 1:
        message = f"is {generation.num_beams}, and answers with images are generated without beams"
        yield Problem("evaluation.generation.num_beams", message, hint="set it to 1, or remove model.generator")


def unrouted(path: str, source: Any, model: Any) -> Iterator[Problem]:
    """Modalities of a source for which the model has no route.

    source  its Config, or the open data set: some sources know their modalities only once they are open
    """
    for modality in getattr(source, "modalities", ()):
        if modality not in model.routes:
            message = f"holds {modality}, for which the model has no route"
            yield Problem(path, message, allowed=tuple(model.routes), hint="add one under model.routes")


def drawing_problems(path: str, source: Dataset, template: str | None = None) -> Iterator[Problem]:
    """Drawings of an open source that a run cannot be trained on. template: None when it is not known"""
    if source.has_drawings and template in TEMPLATES.names() and not TEMPLATES.get(template).can_draw:
        able = tuple(name for name in TEMPLATES.names() if TEMPLATES.get(name).can_draw)
        yield Problem(path, f"holds drawings, which the template {template} cannot write", allowed=able)
    if (message := source.untrainable()) is not None:
        hint = "give each drawing the `path` of its image, or leave these records out"
        yield Problem(path, message, hint=hint)


def batch_problems(data: DataConfig, run: RunConfig, num_ranks: int) -> Iterator[Problem]:
    """Sources and streams whose own batch does not divide into equal micro-batches for all ranks."""
    parts = run.accumulate * num_ranks
    kind = "streams" if data.mix == "joint" else "sources"
    for name, batch in data.batches.items():
        if batch % parts:
            works = " or ".join(map(str, nearest_multiples(batch, parts)))
            message = f"is {batch}, which is not a multiple of run.accumulate {run.accumulate} x {num_ranks} ranks"
            hint = f"{works} would work; or change run.accumulate or the number of ranks"
            yield Problem(f"data.{kind}.{name}.batch", message, hint=hint)


def piece_problems(path: str, source: Any, model: ModelConfig) -> Iterator[Problem]:
    """Numbers of pieces (frames, clips) of one source that the model cannot process.

    path    of the source in the configuration
    source  its Config
    """
    for one in piece_counts(source):
        count, modality, route = one.count, one.modality, model.routes.get(one.modality)
        if route is None or count == route.pieces_config.count:
            continue
        if (fault := model.piece_fault(modality, count)) is not None:
            yield Problem(f"{path}.{one.setting}", f"is {count}, but {fault}")
            continue
        usual, own = tokens_by_count(model, modality, (route.pieces_config.count, count))
        if usual != own:
            message = (
                f"is {count}, which gives {own} tokens, but an item of the {modality} route has {usual} "
                f"(of {route.pieces_config.count} {MODALITIES.get(modality).pieces})"
            )
            hint = "a bridge with a fixed number of tokens (qformer; linear or mlp with pool) takes any count"
            yield Problem(f"{path}.{one.setting}", message, hint=hint)
        for one_more in _bridge_problems(model, modality, route, count):
            yield Problem(
                f"{path}.{one.setting}", f"is {count}: model.bridges.{route.bridge}.{one_more.path} {one_more.message}"
            )


def mixed_piece_problems(
    data: DataConfig, model: ModelConfig, opened: Mapping[str, Dataset] | None = None
) -> Iterator[Problem]:
    """In mix "sample" a batch holds several sources, so their items need the same number of pieces; in mix "joint" a
    batch holds several sources of one stream.

    opened  the open sources, by name: some know their modalities only once they are open
    """
    if data.mix not in ("sample", "joint"):
        return
    for modality, route in model.routes.items():
        for stream, sources in data.pools.items():
            found: dict[int, list[str]] = {}
            for name, choice in sources.items():
                own = piece_count_of(choice.config, modality)
                held = getattr(opened[name] if opened else choice.config, "modalities", (modality,) if own else ())
                if choice.config.weight and modality in held:
                    found.setdefault(own.count if own else route.pieces_config.count, []).append(name)
            if len(found) > 1:
                yield _mixed_pieces(data, modality, stream, found)


def _mixed_pieces(data: DataConfig, modality: str, stream: str, found: Mapping[int, list[str]]) -> Problem:
    """found: number of pieces -> the sources with it, which share batches"""
    listed = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(found.items()))
    pieces = MODALITIES.get(modality).pieces
    if stream:
        message = f"puts sources with different {pieces} into one batch ({listed})"
        hint = f"give these sources streams of their own, or all of them the same {pieces}"
        return Problem(f"data.streams.{stream}", message, hint=hint)
    message = f"is sample, which puts sources with different {pieces} into one batch ({listed})"
    hint = f"use mix: step or mix: micro, which keep sources apart; or give all sources the same {pieces}"
    return Problem("data.mix", message, hint=hint)


def _bridge_problems(model: ModelConfig, modality: str, route: RouteConfig, count: int) -> Iterator[Problem]:
    if route.pieces_config.merge == "concat":
        yield from model.bridges[route.bridge].config.route_problems({modality: count})
