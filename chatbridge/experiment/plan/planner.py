"""Put a plan together: the run, its model on the meta device, its sources, its micro-batches, memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import build_template
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.experiment.build import Built, build_model
from chatbridge.experiment.data import batching_of, with_steps
from chatbridge.experiment.feature_cache.feature_sets import plan_features
from chatbridge.experiment.media_plan import planned_route
from chatbridge.experiment.plan.assumed_chat import AssumedChat
from chatbridge.experiment.plan.hours import Work, hours, work_of
from chatbridge.experiment.plan.memory import Memory, MemoryPlanner
from chatbridge.experiment.plan.micro_batches import NUM_MEASURED, Batches, Kind, volume
from chatbridge.experiment.plan.request import PlanRequest, planned_ranks
from chatbridge.experiment.plan.settings import PlannedRun, planned_run
from chatbridge.experiment.plan.sources import AssumedSource, PlannedData, planned_data
from chatbridge.experiment.tokens import WordTokenizer
from chatbridge.models.chat_template import template_strings
from chatbridge.processors.media_processor import with_limits
from chatbridge.runners.config import RunConfig, compute_dtype
from chatbridge.runners.gpus import GPUS
from chatbridge.runners.planned_step.measure import NotSimulated


@dataclass(frozen=True)
class Plan:
    """What a training run needs and does.

    dtype    of autocast and frozen weights
    memory   None when no conversation's length is known, or a step cannot be simulated (`assumed` has the reason)
    assumed  what was not measured or read, a line each
    absent   files that a real run needs and that are not there, a line each
    """

    run: PlannedRun
    request: PlanRequest
    planner: MemoryPlanner
    dtype: torch.dtype
    data: PlannedData
    kinds: Sequence[Kind]
    work: Work
    memory: Memory | None
    assumed: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def settings(self) -> RunConfig:
        return self.run.config.run

    @property
    def fits(self) -> bool | None:
        """Whether one rank's memory suffices; None when no memory was stated."""
        if self.request.budget is None or self.memory is None:
            return None
        return self.memory.total <= self.request.budget

    @property
    def hours(self) -> float | None:
        """None without a GPU."""
        gpu = GPUS.get(self.request.gpu or "")
        return None if gpu is None else hours(self.work, self.settings.max_steps, gpu, self.request.mfu)


class Planner:
    """Plans of one file with different options. Models and simulated steps are built once per kind of model."""

    def __init__(self, path: str | Path, request: PlanRequest, num_measured: int = NUM_MEASURED) -> None:
        self.path, self.request, self.num_measured = path, request, num_measured
        self._models: dict[str, tuple[Built, MemoryPlanner]] = {}

    def plan(self, options: Sequence[str] = ()) -> Plan:
        """raises ConfigError with the mistakes of the file and of the options"""
        with planned_ranks(self.request.ranks):
            run = planned_run(self.path, options)
            return self._plan(run)

    def settings(self, options: Sequence[str]) -> tuple[RunConfig, MemoryPlanner]:
        """The run section with these options, and the memory of its model. raises ConfigError"""
        with planned_ranks(self.request.ranks):
            run = planned_run(self.path, options)
            return run.config.run, self._model(run, self._dtype(run.config.run))[1]

    def _plan(self, run: PlannedRun) -> Plan:
        config = run.config
        dtype = self._dtype(config.run)
        built, planner = self._model(run, dtype)
        layout, note = _layout(built, run)
        data = planned_data(run, layout, built.model.media_lengths(), self.request.ranks)
        run = replace(run, opened=with_steps(run.opened, data.mixture.sources, self.request.ranks))
        return self._of(run, dtype, planner, data, layout, note)

    def of_open_run(self, run: PlannedRun, built: Built, layout: Layout, mixture: Mixture[Any]) -> Plan:
        """The plan of a run whose model (on the meta device) and data are open."""
        dtype = self._dtype(run.config.run)
        planner = MemoryPlanner(built.model, dtype, self.request.has_gpu, run.bits)
        data = PlannedData(mixture, {}, layout, frozenset(run.config.data.batches))
        return self._of(run, dtype, planner, data, layout, "")

    def _of(
        self, run: PlannedRun, dtype: torch.dtype, planner: MemoryPlanner, data: PlannedData, layout: Layout | None,
        note: str,
    ) -> Plan:  # fmt: skip
        config, ranks = run.config, self.request.ranks
        kinds = self._batches(run, data, layout).kinds(config.run, ranks, self.num_measured)
        flops = planner.flops(config.run)
        largest = max((one.largest for one in kinds if one.largest), key=volume, default=None)
        try:
            memory = None if largest is None else planner.peak(config.run, largest, ranks)
        except NotSimulated as error:  # a part of a plugin, for example
            memory, note = None, f"{note}; memory: a step cannot be simulated ({error})".lstrip("; ")
        absent = (*run.absent, *(f"data.sources.{name}: {why}" for name, why in data.absent.items()))
        assumed = tuple(filter(None, [*run.assumed, note, *_assumed_sources(data)]))
        work = work_of(kinds, flops, config.run.accumulate)
        return Plan(run, self.request, planner, dtype, data, kinds, work, memory, assumed, absent)

    def _dtype(self, run: RunConfig) -> torch.dtype:
        if run.precision == "auto" and self.request.has_gpu:
            return torch.bfloat16
        is_cuda = run.device != "cpu" and torch.cuda.is_available()
        return compute_dtype(run.precision, torch.device("cuda" if is_cuda else "cpu"))

    def _model(self, run: PlannedRun, dtype: torch.dtype) -> tuple[Built, MemoryPlanner]:
        key = repr((run.config.model, run.bits, dtype))
        if key not in self._models:
            built = build_model(run.config.model, True, run.config.run.optimizer.groups)
            self._models[key] = built, MemoryPlanner(built.model, dtype, self.request.has_gpu, run.bits)
        return self._models[key]

    def _batches(self, run: PlannedRun, data: PlannedData, layout: Layout | None) -> Batches:
        config = run.config
        processors = {
            name: with_limits(one, config.data.media) for name, one in config.model.processors(train=True).items()
        }
        packs_exactly = self.request.has_gpu and config.data.batching == "packed"
        if layout is None and config.data.batching == "packed":
            hint = "give the folder of the tokenizer: model.language.tokenizer"
            raise ConfigError([Problem("data.batching", "packed rows need a template with its tokenizer", hint=hint)])
        batching = batching_of(config.data, layout or _NoLayout())  # pyright: ignore[reportArgumentType]
        return Batches(data, batching, processors, _cached_features(run), packs_exactly)


def _cached_features(run: PlannedRun) -> dict[str, tuple[int, int]]:
    """modality -> N and W of a piece, of the modalities that a run reads from data.feature_cache."""
    config = run.config
    if config.data.feature_cache is None:
        return {}
    found = plan_features(config.data, config.model, config.data.feature_cache).decoders
    routes = {modality: planned_route(config.model, modality).encoder for modality in found}
    return {modality: (encoder.num_tokens(modality), encoder.width) for modality, encoder in routes.items()}


class _NoLayout:
    context_length = longest = None


def _layout(built: Built, run: PlannedRun) -> tuple[Layout | None, str]:
    """The layout of the run, with words in place of tokens when there is no tokenizer; and a note about that."""
    config, model = run.config, built.model
    if model.language.tokenizer_folder is not None:
        return built.layout(config.template, config.data.max_tokens), ""
    note = "no tokenizer: lengths of the template are counted in words, 1.33 tokens each"
    try:
        if config.template == "hf_chat":  # which is in the tokenizer's folder
            template, note = AssumedChat(None), f"{note}; the template is taken for ChatML"
        else:
            template = build_template(config.template, **template_strings(config.model, config.template))
        tokenizer: Any = WordTokenizer()
        slots = {modality: tokenizer.token_id(token) for modality, token in model.slot_tokens().items()}
        lengths, context = model.media_lengths(), model.language.max_positions
        return Layout(template, tokenizer, lengths, config.data.max_tokens, context, slots), note
    except ConfigError as error:
        return (
            None,
            f"the template {config.template} needs its tokenizer ({error.problems[0].message}); typical lengths",
        )


def _assumed_sources(data: PlannedData) -> list[str]:
    stands_in = [one for one in data.mixture.sources.values() if isinstance(one, AssumedSource)]
    known = [one.name for one in stands_in if one.is_known]
    others = [one.name for one in stands_in if not one.is_known]
    lines = []
    if known:
        lines.append(f"samples and lengths of {', '.join(known)}: those of the data cards")
    if others:
        lines.append(f"lengths of {', '.join(others)}: usual ones of the builder; the number of samples is not known")
    return lines
