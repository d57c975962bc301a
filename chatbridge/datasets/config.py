"""The `data:` section of a YAML: the sources, their shares, limits on media, and how samples are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from chatbridge.common.errors import Problem, nearest
from chatbridge.config.schema import Choice, Exists, Length, NameIn, PartOf, Range
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.datasets.batching import BatchingKind
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.feature_cache.config import FeatureCacheConfig
from chatbridge.datasets.order.mixture import Mix
from chatbridge.datasets.piece_counts import piece_count_problems, piece_counts
from chatbridge.processors.image_file import Background
from chatbridge.processors.limits import Limits

SourceChoice = Annotated[Choice[Dataset], PartOf(BUILDERS)]


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Preprocessing of images and frames that is set for all encoders at once."""

    # color of transparent and padded pixels, or none (hidden colors show). It replaces
    # model.encoders.<name>.background, also in checkpoints, evaluation and chat; null: the setting of each encoder
    background: Annotated[str, Background()] | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The samples of each source that are never trained on; run.validate_every says how often they are used."""

    # held-out samples per source, chosen by run.seed; data.sources.<name>.validation sets them for one source. Remote
    # shards hold out none: their samples come as a stream
    samples: Annotated[int, Range(low=0)] = 0


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One stream of mix "joint": the sources that name it. Every step has conversations of every stream."""

    # factor on the mean loss of the stream; the loss of a step is the sum over all streams, so with two streams of
    # weight 1 both count alike, however many supervised tokens each has
    weight: Annotated[float, Range(above=0, below=math.inf)] = 1.0
    # conversations per step over all ranks, in equal micro-batches; null: micro_batch * accumulate * ranks of the run
    batch: Annotated[int, Range(low=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data of a run."""

    sources: Annotated[dict[str, SourceChoice], Length(low=1)]  # name -> a builder with its settings
    template: Annotated[str, NameIn(TEMPLATES)] | None = None  # chat template; null: the one of the language model
    # unit that has one source: sample, a conversation; step, a whole step, as in the published runs; micro, the
    # micro-batch of one rank. joint: every step has micro-batches of all `streams`, and a micro-batch has one stream
    mix: Mix = "sample"
    # mix joint: name -> settings of the stream, in the order of its micro-batches inside a step. A source names its
    # stream with `stream`; its weight is its share inside the stream
    streams: dict[str, StreamConfig] = field(default_factory=dict)
    # mix joint: the stream whose samples run.max_epochs counts, the others are endless; null: the first of `streams`
    epoch_stream: str | None = None
    # shares are proportional to weight ** (1 / temperature); above 1, small sources are drawn more often
    temperature: Annotated[float, Range(above=0)] = 1.0
    max_tokens: Annotated[int, Range(low=1)] | None = None  # longest token sequence, media included; null: no limit
    # how conversations form micro-batches. padded: as drawn; grouped: sorted by length inside a window of steps;
    # packed: several in one row, which attention keeps apart. packed has the least padding
    batching: BatchingKind = "padded"
    # grouped: steps that are sorted together. With 1 every step has the conversations it has without grouping; more
    # steps give more equal lengths, and move conversations between these steps
    group_window: Annotated[int, Range(low=1, high=10_000)] = 1
    # packed: most positions of a row, at least those of the longest sequence; null: the context length of the language
    # model, at most 4096
    token_budget: Annotated[int, Range(low=1)] | None = None
    media: Limits = field(default_factory=Limits)  # limits on a media file, and what happens beyond them
    image: ImageConfig = field(default_factory=ImageConfig)  # preprocessing that is set for all encoders at once
    # read outputs of frozen encoders that `chatbridge cache CFG` stored, in place of media; null: encode in each step
    feature_cache: FeatureCacheConfig | None = None
    validation: ValidationConfig = field(default_factory=ValidationConfig)  # samples that are never trained on
    # samples known to be broken, a line {"source", "id", "reason"} each: replaced, and counted separately
    quarantine: Annotated[Path, Exists("file")] | None = None
    # processes per rank that read and decode; results do not depend on it. With 0 the training process reads: a decoder
    # that crashes or never returns ends the run, and media.time_limit_s is the only protection
    num_workers: Annotated[int, Range(low=0)] = 2

    def problems(self) -> Iterator[Problem]:
        """Contradictions between the settings, found once each of them is valid."""
        if not any(choice.config.weight for choice in self.sources.values()):
            yield Problem("sources", "all weights are 0; give at least one source a weight above 0")
        for name, choice in self.sources.items():
            yield from self._source_problems(f"sources.{name}", choice.config)
        if self.mix == "joint":
            yield from self._stream_problems()
        elif self.streams or self.epoch_stream is not None:
            place = "streams" if self.streams else "epoch_stream"
            message = f"belongs to mix: joint, data.mix is {self.mix}"
            yield Problem(place, message, hint="set data.mix: joint, or remove it")

    def _stream_problems(self) -> Iterator[Problem]:
        """Streams that are missing, unknown, or have no source to draw from."""
        if not self.streams:
            hint = "name them, for example streams: {visual: {}, language: {}}, and give each source its `stream`"
            yield Problem("streams", "is empty, but data.mix is joint", hint=hint)
            return
        names = tuple(self.streams)
        if not all(names):
            yield Problem("streams", "has a stream without a name", hint="name it, for example visual")
        if self.epoch_stream is not None and self.epoch_stream not in names:
            guess = nearest(self.epoch_stream, names)
            yield Problem("epoch_stream", f"there is no stream {self.epoch_stream!r}", allowed=names, nearest=guess)
        for name, choice in self.sources.items():
            own = choice.config.stream
            if own is None:
                message = "is missing: in mix joint every source belongs to a stream"
                yield Problem(f"sources.{name}.stream", message, allowed=names)
            elif own not in names:
                guess = nearest(own, names)
                yield Problem(f"sources.{name}.stream", f"there is no stream {own!r}", allowed=names, nearest=guess)
        for name in names:
            if not any(choice.config.weight for choice in self.of_stream(name).values()):
                hint = f"give a source `stream: {name}`, or remove the stream"
                yield Problem(f"streams.{name}", "has no source with a weight above 0", hint=hint)

    def _source_problems(self, path: str, source: Any) -> Iterator[Problem]:
        """Settings of one source that contradict each other or those of the run."""
        if source.cap is not None and source.weight != "size":
            message = f"belongs to weight: size, but the weight is {source.weight:g}"
            yield Problem(f"{path}.cap", message, hint="set weight: size, or remove cap")
        if source.batch is not None and self.mix != "step":
            message = f"is {source.batch}, but data.mix is {self.mix}: a source has its own batch in mix step only"
            remedy = "give the stream a batch" if self.mix == "joint" else "set data.mix: step"
            yield Problem(f"{path}.batch", message, hint=f"{remedy}, or remove batch")
        if source.stream is not None and self.mix != "joint":
            message = f"is {source.stream}, but data.mix is {self.mix}: only mix joint has streams"
            yield Problem(f"{path}.stream", message, hint="set data.mix: joint, or remove stream")
        modalities = getattr(source, "modalities", None)  # None: known once it is open
        for one in piece_counts(source):
            if modalities is not None and one.modality not in modalities and one.modality in MODALITIES:
                listed = ", ".join(modalities) or "only text"
                yield Problem(f"{path}.{one.setting}", f"belongs to {one.modality}, but this source has {listed}")
        yield from (replace(one, path=f"{path}.{one.path}") for one in piece_count_problems(source))

    def of_stream(self, name: str) -> dict[str, Choice[Dataset]]:
        """The sources of a stream."""
        return {source: choice for source, choice in self.sources.items() if choice.config.stream == name}

    @property
    def pools(self) -> dict[str, dict[str, Choice[Dataset]]]:
        """The sources that may share a micro-batch, by stream; "" -> all sources without streams."""
        return {name: self.of_stream(name) for name in self.streams} if self.mix == "joint" else {"": self.sources}

    @property
    def stream_weights(self) -> dict[str, float]:
        """Stream -> factor on its mean loss; empty without streams."""
        return {name: one.weight for name, one in self.streams.items()}

    @property
    def stream_of(self) -> dict[str, str]:
        """Source -> its stream; empty without streams."""
        return {source: name for name in self.streams for source in self.of_stream(name)}

    @property
    def failure_budgets(self) -> dict[str, float]:
        """source -> share of its draws that may fail."""
        return {name: choice.config.failure_budget for name, choice in self.sources.items()}

    @property
    def held_out(self) -> dict[str, int]:
        """source -> number of samples that are kept for validation."""
        own = {name: choice.config.validation for name, choice in self.sources.items()}
        return {name: self.validation.samples if number is None else number for name, number in own.items()}

    @property
    def batches(self) -> dict[str, int]:
        """Conversations per step of the sources, or in mix "joint" of the streams, that set `batch`."""
        sources = {name: choice.config.batch for name, choice in self.sources.items()}
        batches = {name: one.batch for name, one in self.streams.items()} if self.mix == "joint" else sources
        return {name: batch for name, batch in batches.items() if batch is not None}
