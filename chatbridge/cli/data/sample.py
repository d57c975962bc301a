"""One sample of a run, or of one source, with everything that became of it on the way to the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError, Problem
from chatbridge.conversation.layout import TokenSequence, fit
from chatbridge.conversation.messages import Conversation
from chatbridge.conversation.spans import BranchSpan, MediaSpan, Span, TextSpan
from chatbridge.cli.data.instrumented_processor import Around
from chatbridge.cli.data.task_questions import read_question
from chatbridge.experiment.data import run_mixture
from chatbridge.experiment.media_plan import MediaPlan
from chatbridge.experiment.tokens import Tokens, special_name
from chatbridge.experiment.partial_data import OpenedData, Source
from chatbridge.datasets.order.mixture import Draw, Mixture
from chatbridge.datasets.quarantine import Quarantine, read_quarantine
from chatbridge.datasets.reading import read_sample, sample_name
from chatbridge.datasets.workers.time_limit import time_limit
from chatbridge.processors.sampling import watched
from chatbridge.processors.media_source import Ref


@dataclass(frozen=True)
class Medium:
    """One media item as it was read.

    tensor   what its encoder gets; None when it could not be read
    chosen   (number of frames or slices there are, those that were taken); None for pictures
    """

    modality: str
    ref: Ref
    processor: Any
    tensor: Tensor | None = None
    chosen: tuple[int, list[int]] | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of what the model reads: words of the template's exact string, or a media item (slot)."""

    words: str
    learned: bool = False
    modality: str = ""
    gone: bool = False  # did not fit into the row


@dataclass
class Shown:
    """A sample for people. `problem` says why a run would not use it."""

    source: Source
    index: int
    place: str  # where it stands in the run, or in its source
    seed: int
    id: str = ""
    conversation: Conversation = ()
    media: list[Medium] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    row: TokenSequence | None = None
    answer: str = ""  # of a question that an evaluation asks
    prompts: tuple[str, ...] = ()  # those of which one was drawn
    prompt: str = ""  # the drawn one
    problem: str = ""
    share: float | None = None
    instead: str = ""  # the sample that a run takes when this one cannot be used
    notes: list[str] = field(default_factory=list)


def mixture_of(found: OpenedData, ranks: int) -> Mixture[Any]:
    """The order of a run over its sound sources. raises ConfigError when the file does not say enough"""
    run, data = found.run, found.data
    if run is None or data is None:
        hint = "until then, --source NAME shows the samples of one source"
        why = "its order is known once these are repaired" if found.problems else "is missing; it has the order"
        raise ConfigError([*found.problems, Problem("run", why, hint=hint)])
    sources = {source.name: source.dataset for source in found.trained}
    return run_mixture(data, run, sources, ranks)


def of_run(found: OpenedData, number: int, ranks: int) -> tuple[Shown, Draw]:
    """The sample of the number-th conversation of a run, counted from 0."""
    mixture = mixture_of(found, ranks)
    step = step_of(mixture, number)
    draws = mixture.draws(step)
    position = number - sum(mixture.counts(step).values())
    draw = draws[position]
    place = f"step {step:,}, conversation {position + 1} of {len(draws)}; draw {draw.drawn:,} of its source"
    assert found.run is not None
    shown = Shown(found.find(draw.source), draw.index, place, found.run.seed, share=mixture.shares[draw.source])
    if len(shown.source.dataset) > 1:
        shown.instead = sample_name(shown.source.dataset, mixture.replacement(draw, 1))
    if listed := _quarantine(found).find(shown.source.dataset, draw.index):
        shown.problem = f"it is in quarantine: {listed.reason}"
    if step >= found.run.max_steps:
        shown.notes.append(f"the run ends before it, after step {found.run.max_steps:,}")
    return shown, draw


def _quarantine(found: OpenedData) -> Quarantine:
    """The list of the run; empty when it names none, or one that is still to be written."""
    named = found.node("data").get("quarantine")
    listed = read_quarantine(Path(named) if isinstance(named, str) and Path(named).is_file() else None)
    listed.update_ids(source.dataset for source in found.trained)
    return listed


def step_of(mixture: Mixture[Any], number: int) -> int:
    """The step that holds the number-th conversation: steps of sources with their own batch differ in size."""
    smallest = min(size for name, size in mixture.per_unit.items() if mixture.shares[name] > 0)
    low, high = 0, number // (smallest * mixture.units_per_step) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(mixture.counts(middle).values()) <= number else (low, middle)
    return low


def of_source(found: OpenedData, source: Source, number: int) -> Shown:
    """The sample of a source in the order of its files. raises ConfigError when it has fewer"""
    if not 0 <= number < len(source.dataset):
        raise ConfigError([Problem("N", f"is {number}, but {source.name} has samples 0 to {len(source.dataset) - 1}")])
    seed = found.run.seed if found.run is not None else 0
    return Shown(source, number, f"sample {number:,} of {len(source.dataset):,} of this source", seed)


def fill(shown: Shown, senses: MediaPlan, tokens: Tokens, drawn: int | None = None) -> Shown:
    """Read the sample as the run would for that draw, and lay it out."""
    source, taken = shown.source, shown.media
    inner = senses.processors(source.task is None)
    processors = {name: Around(one, partial(_read, taken, name)) for name, one in inner.items()}
    shown.id = sample_name(source.dataset, shown.index)
    try:
        with time_limit(senses.limits.time_limit_s):
            _decode(shown, processors, drawn)
    except (MediaError, DataError) as error:
        shown.problem = shown.problem or str(error)
    if not shown.conversation:
        shown.conversation = _words_alone(source, shown.index, shown.seed)
    _find_prompt(shown)
    _lay_out(shown, tokens)
    return shown


def _decode(shown: Shown, processors: Mapping[str, Any], drawn: int | None) -> None:
    """With the random numbers of the run, or of the evaluation."""
    source, index = shown.source, shown.index
    if source.task is None:
        rng = seeds.stream(shown.seed, f"sample/{source.name}", index if drawn is None else drawn, 0)
        found: Any = read_sample(source.dataset, index, processors, rng)
    else:
        rng = seeds.stream(0, f"task/{source.name}", index)
        found = read_question(source.dataset, index, processors, rng, source.task.drop_media)
        shown.answer = " | ".join(found.answers)
    shown.conversation = found.conversation
    if found.without_sound is not None:
        shown.notes.append(f"without sound, which the words say: {found.without_sound}")


def _read(taken: list[Medium], modality: str, processor: Any, ref: Ref, rng: np.random.Generator | None) -> Any:
    with watched() as choices:
        try:
            tensor = processor(ref, rng)
        except MediaError:
            taken.append(Medium(modality, ref, processor))
            raise
    taken.append(Medium(modality, ref, processor, tensor, choices[-1] if choices else None))
    return tensor


def _words_alone(source: Source, index: int, seed: int) -> Conversation:
    """What the annotation says when the media cannot be read."""
    try:
        return source.dataset.record(index, seeds.stream(seed, "show", index)).conversation
    except (MediaError, DataError):
        return ()


def _lay_out(shown: Shown, tokens: Tokens) -> None:
    layout, is_question = tokens.layout, shown.source.task is not None
    if layout is None or not shown.conversation:
        return
    try:
        shown.segments = _segments(shown.conversation, layout, is_question)
        shown.row = (layout.prompt if is_question else layout.row)(shown.conversation)
    except ValueError as error:
        shown.problem = shown.problem or str(error)


def _segments(conversation: Conversation, layout: Any, reply: bool) -> list[Segment]:
    """The template's exact string, in the stretches that are tokenised on their own."""
    ids = {"bos": layout.tokenizer.bos_id, "eos": layout.tokenizer.eos_id}
    specials: Mapping[str, Any] = {
        name: None if number is None else special_name(layout.tokenizer, number) for name, number in ids.items()
    }
    write, lengths = layout.template.spans, layout.media_lengths
    words = write(conversation, _one_word, lengths, reply, specials)
    spans = write(conversation, layout.tokenizer.encode, lengths, reply, ids)
    if reply:  # as Layout.prompt does
        words, spans = ([span for span in some if not isinstance(span, BranchSpan)] for some in (words, spans))
    kept = spans if reply or layout.limit is None else fit(spans, layout.limit, layout.limit_name)
    segments = [] if layout.template.writes_bos or ids["bos"] is None else [Segment(str(specials["bos"]))]
    words = [_named(span, layout.tokenizer) for span in words]
    for at, span in enumerate(words):
        last = kept[at] if at == len(kept) - 1 else None
        if isinstance(last, TextSpan) and last.length < spans[at].length:
            segments += _divided(_segment(span), layout.tokenizer.decode(last.ids))
        else:
            segments.append(_segment(span, gone=at >= len(kept)))
    return segments


def _one_word(words: str) -> list[Any]:
    return [words]


def _named(span: Any, tokenizer: Any) -> Any:
    """With the names of special tokens that a template wrote by their ids."""
    if isinstance(span, MediaSpan) or not any(isinstance(one, int) for one in span.ids):
        return span
    names: Any = tuple(special_name(tokenizer, one) if isinstance(one, int) else one for one in span.ids)
    return replace(span, ids=names)


def _segment(span: Span, gone: bool = False) -> Segment:
    if isinstance(span, MediaSpan):
        return Segment("", modality=span.modality, gone=gone)
    return Segment("".join(map(str, span.ids)), span.supervised, gone=gone)


def _divided(whole: Segment, kept: str) -> list[Segment]:
    """A segment that was cut inside: what the row still has, and the rest."""
    end = len(kept) if whole.words.startswith(kept) else 0
    return [replace(whole, words=whole.words[:end]), replace(whole, words=whole.words[end:], gone=True)]


def _find_prompt(shown: Shown) -> None:
    """Which of the prompts the words of the user were made from."""
    shown.prompts = tuple(getattr(shown.source.dataset.config, "prompt_list", ()) or ())
    said = [message.text for message in shown.conversation if message.role == "user"]
    for prompt in shown.prompts:
        pattern = ".*".join(re.escape(part) for part in re.split(r"\{\w*\}|<\w+>", prompt))
        if any(re.fullmatch(rf"\s*{pattern}\s*", words, re.DOTALL) for words in said):
            shown.prompt = prompt
            return
