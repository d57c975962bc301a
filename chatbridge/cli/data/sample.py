"""One sample of a run or of one source, with every step on its way to the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.cli.data.evaluation_question import read_question
from chatbridge.cli.data.instrumented_processor import InstrumentedProcessor
from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError, Problem
from chatbridge.conversation.layout import TokenSequence
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.order.mixture import Draw, Mixture
from chatbridge.datasets.quarantine import Quarantine, read_quarantine
from chatbridge.datasets.sample_reader import read_sample, sample_name
from chatbridge.datasets.workers.time_limit import time_limit
from chatbridge.experiment.data import run_mixture
from chatbridge.experiment.media_plan import MediaPlan
from chatbridge.experiment.partial_data import PartialData, Source
from chatbridge.experiment.prompt_segments import Segment, segments_of
from chatbridge.experiment.tokens import Tokens
from chatbridge.processors.media_source import Ref
from chatbridge.processors.piece_choice import watched
from chatbridge.serve.media_pictures.media_png import ReadMedia


@dataclass
class SampleView:
    """A sample and everything to display about it. problem: why a run would not use it, "" if it would."""

    source: Source
    index: int
    place: str  # its position in the run, or in its source
    seed: int
    id: str = ""
    conversation: Conversation = ()
    media: list[ReadMedia] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    sequence: TokenSequence | None = None
    answer: str = ""  # correct answers of an evaluation question
    prompts: tuple[str, ...] = ()  # prompts of the source, one of which is drawn
    prompt: str = ""  # the drawn prompt
    problem: str = ""
    share: float | None = None
    replacement: str = ""  # the sample that a run uses instead of an unusable one
    notes: list[str] = field(default_factory=list)


def mixture_of(found: PartialData, ranks: int) -> Mixture[Any]:
    """Return the order of a run over its usable sources. Raises ConfigError if the file does not define it."""
    run, data = found.run, found.data
    if run is None or data is None:
        hint = "--source NAME shows samples of one source without it"
        why = (
            "the order is known once these problems are fixed" if found.problems else "is missing; it defines the order"
        )
        raise ConfigError([*found.problems, Problem("run", why, hint=hint)])
    sources = {source.name: source.dataset for source in found.trained}
    return run_mixture(data, run, sources, ranks)


def of_run(found: PartialData, number: int, ranks: int) -> tuple[SampleView, Draw]:
    """Return the conversation with this number in the run, counted from 0."""
    mixture = mixture_of(found, ranks)
    step = step_of(mixture, number)
    draws = mixture.draws(step)
    position = number - sum(mixture.counts(step).values())
    draw = draws[position]
    place = f"step {step:,}, conversation {position + 1} of {len(draws)}; draw {draw.drawn:,} of its source"
    assert found.run is not None
    view = SampleView(found.find(draw.source), draw.index, place, found.run.seed, share=mixture.shares[draw.source])
    if len(view.source.dataset) > 1:
        view.replacement = sample_name(view.source.dataset, mixture.replacement(draw, 1))
    if listed := _quarantine(found).find(view.source.dataset, draw.index):
        view.problem = f"it is in the quarantine list: {listed.reason}"
    if step >= found.run.max_steps:
        view.notes.append(f"the run ends before this sample, after step {found.run.max_steps:,}")
    return view, draw


def _quarantine(found: PartialData) -> Quarantine:
    """Return the quarantine list of the run; empty if it has none, or the file does not exist yet."""
    named = found.node("data").get("quarantine")
    listed = read_quarantine(Path(named) if isinstance(named, str) and Path(named).is_file() else None)
    listed.update_ids(source.dataset for source in found.trained)
    return listed


def step_of(mixture: Mixture[Any], number: int) -> int:
    """Return the step of the conversation with this number; steps differ in size if a source has its own batch."""
    smallest = min(size for name, size in mixture.per_unit.items() if mixture.shares[name] > 0)
    low, high = 0, number // (smallest * mixture.units_per_step) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(mixture.counts(middle).values()) <= number else (low, middle)
    return low


def of_source(found: PartialData, source: Source, number: int) -> SampleView:
    """Return a sample of a source in file order. Raises ConfigError if the number is out of range."""
    if not 0 <= number < len(source.dataset):
        raise ConfigError([Problem("N", f"is {number}, but {source.name} has samples 0 to {len(source.dataset) - 1}")])
    seed = found.run.seed if found.run is not None else 0
    return SampleView(source, number, f"sample {number:,} of {len(source.dataset):,} of this source", seed)


def fill(view: SampleView, media_plan: MediaPlan, tokens: Tokens, drawn: int | None = None) -> SampleView:
    """Read the sample as the run does for this draw, and lay it out."""
    source, taken = view.source, view.media
    inner = media_plan.processors(source.task is None)
    processors = {name: InstrumentedProcessor(one, partial(_read, taken, name)) for name, one in inner.items()}
    view.id = sample_name(source.dataset, view.index)
    try:
        with time_limit(media_plan.limits.time_limit_s):
            _decode(view, processors, drawn)
    except (MediaError, DataError) as error:
        view.problem = view.problem or str(error)
    if not view.conversation:
        view.conversation = _text_only(source, view.index, view.seed)
    _find_prompt(view)
    _lay_out(view, tokens)
    return view


def _decode(view: SampleView, processors: Mapping[str, Any], drawn: int | None) -> None:
    """Read with the random streams of the run, or of the evaluation."""
    source, index = view.source, view.index
    if source.task is None:
        rng = seeds.stream(view.seed, f"sample/{source.name}", index if drawn is None else drawn, 0)
        found: Any = read_sample(source.dataset, index, processors, rng)
    else:
        rng = seeds.stream(0, f"task/{source.name}", index)
        found = read_question(source.dataset, index, processors, rng, source.task.drop_media)
        view.answer = " | ".join(found.answers)
    view.conversation = found.conversation
    if found.without_sound is not None:
        view.notes.append(f"without audio, as the prompt states: {found.without_sound}")


def _read(taken: list[ReadMedia], modality: str, processor: Any, ref: Ref, rng: np.random.Generator | None) -> Any:
    with watched() as choices:
        try:
            tensor = processor(ref, rng)
        except MediaError:
            taken.append(ReadMedia(modality, ref, processor))
            raise
    taken.append(ReadMedia(modality, ref, processor, tensor, choices[-1] if choices else None))
    return tensor


def _text_only(source: Source, index: int, seed: int) -> Conversation:
    """Return the conversation of the annotation if the media cannot be read."""
    try:
        return source.dataset.record(index, seeds.stream(seed, "show", index)).conversation
    except (MediaError, DataError):
        return ()


def _lay_out(view: SampleView, tokens: Tokens) -> None:
    layout, is_question = tokens.layout, view.source.task is not None
    if layout is None or not view.conversation:
        return
    try:
        view.segments = segments_of(view.conversation, layout, is_question)
        view.sequence = (layout.prompt if is_question else layout.training_sequence)(view.conversation)
    except ValueError as error:
        view.problem = view.problem or str(error)


def _find_prompt(view: SampleView) -> None:
    """Find the prompt from which the user's text was made."""
    view.prompts = tuple(getattr(view.source.dataset.config, "prompt_list", ()) or ())
    said = [message.text for message in view.conversation if message.role == "user"]
    for prompt in view.prompts:
        pattern = ".*".join(re.escape(part) for part in re.split(r"\{\w*\}|<\w+>", prompt))
        if any(re.fullmatch(rf"\s*{pattern}\s*", words, re.DOTALL) for words in said):
            view.prompt = prompt
            return
