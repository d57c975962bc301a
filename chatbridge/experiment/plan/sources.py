"""The sources of a planned run: the real ones where their files are there, else ones of assumed size and length."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.constraints import Choice
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Message, Text
from chatbridge.datasets.order.mixture import Draw, Mixture
from chatbridge.experiment.data import open_choices, run_mixture, steps_settled
from chatbridge.experiment.plan.settings import PlannedRun, known_sizes
from chatbridge.experiment.tokens import WordTokenizer

UNKNOWN_SIZE = 1_000_000  # of a source that is in no list; its passes are not shown
TOKENS_PER_WORD = 1.33  # of English text, Llama's tokenizer
END_TOKENS = 2  # after an answer: the end symbol and what the template puts before it


@dataclass(frozen=True)
class Sized:
    """Positions and supervised points of one conversation; 0 positions: not known.

    media   modality -> number of its items; None: as many as its source states
    """

    length: int
    points: int
    media: Mapping[str, int] | None = None


@dataclass(frozen=True)
class AssumedSource:
    """Stands in for a source whose files are not there: a number of samples and log-normal lengths.

    name, config   as of a data set
    overhead       positions without the texts: media, template
    num_media      items of each modality in a conversation, on average
    limit          most positions; None: no limit
    answer_limit   most tokens of an answer (template caption)
    """

    name: str
    config: Any
    is_known: bool
    settings: Mapping[str, Any]
    modalities: frozenset[str]
    overhead: int = 0
    num_media: float = 1.0
    limit: int | None = None
    answer_limit: int | None = None

    def __len__(self) -> int:
        size = self.settings.get("samples", UNKNOWN_SIZE)
        return min(size, self.config.limit or size)

    def sized(self, drawn: int) -> Sized:
        """The conversation of a draw: a pure function of its number."""
        rng, spread = seeds.stream(0, f"plan/{self.name}", drawn), self.settings["spread"]
        turns = self.settings.get("turns", 1)
        turns = int(rng.integers(max(1, turns - 1), turns + 2)) if turns > 1 else 1
        questions = [_log_normal(rng, self.settings.get("question", 0), spread) for _ in range(turns)]
        answers = [_log_normal(rng, self.settings["answer"], spread) + END_TOKENS for _ in range(turns)]
        answers = [min(one, self.answer_limit or one) for one in answers]
        length = self.overhead + sum(questions) + sum(answers)
        cut = 0 if self.limit is None else max(0, length - self.limit)
        return Sized(length - cut, max(1, sum(answers) - cut))

    @property
    def longest(self) -> int:
        """Positions of the longest conversation that a long run will meet."""
        turns, most = self.settings.get("turns", 0), math.exp(3.5 * self.settings["spread"])  # 1 of 4,000
        answer = self.settings["answer"] * most + END_TOKENS
        answer = min(answer, self.answer_limit or answer)
        length = self.overhead + (turns + 1 if turns > 1 else 1) * (self.settings.get("question", 0) * most + answer)
        return int(min(length, self.limit or length))


def _log_normal(rng: np.random.Generator, median: float, spread: float) -> int:
    return round(median * math.exp(spread * rng.standard_normal())) if median else 0


@dataclass
class PlannedData:
    """Sources and their order.

    absent          source -> why it could not be opened
    with_own_batch  sources, or in mix "joint" streams, with a `batch` of their own
    """

    mixture: Mixture[Any]
    absent: Mapping[str, str]
    layout: Layout | None
    with_own_batch: frozenset[str] = frozenset()
    _known: dict[Draw, Sized] = field(default_factory=dict)

    @property
    def own_batches(self) -> dict[str, int]:
        """Source -> conversations of its steps, of drawn sources with a `batch` of their own; or stream -> the same."""
        mix = self.mixture
        if mix.mix == "joint":
            return {name: part.global_batch for name, part in mix.streams.items() if name in self.with_own_batch}
        sizes = mix.per_unit if mix.mix == "step" else {}
        return {name: size for name, size in sizes.items() if mix.shares[name] and name in self.with_own_batch}

    @property
    def has_usual_batches(self) -> bool:
        """Whether a drawn source, or a stream, has the global batch, which run.micro_batch makes."""
        if self.mixture.mix == "joint":
            return any(name not in self.with_own_batch for name in self.mixture.streams)
        return any(share and name not in self.own_batches for name, share in self.mixture.shares.items())

    def sized(self, draws: Sequence[Draw]) -> list[Sized]:
        """Length and points of each draw; of real data measured without opening media."""
        for draw in draws:
            if draw not in self._known:
                self._known[draw] = self._measure(draw)
        return [self._known[draw] for draw in draws]

    def _measure(self, draw: Draw) -> Sized:
        source: Any = self.mixture.sources[draw.source]
        if isinstance(source, AssumedSource):
            return source.sized(draw.drawn)
        if self.layout is None or getattr(source.config, "is_remote", False):
            return Sized(0, 0)
        rng = seeds.stream(self.mixture.seed, f"sample/{draw.source}", draw.drawn, 0)
        try:
            sequence = self.layout.training_sequence(source.outline(draw.index, rng))
        except (MediaError, DataError, ValueError):
            return Sized(0, 0)
        factor = TOKENS_PER_WORD if isinstance(self.layout.tokenizer, WordTokenizer) else 1.0
        media = Counter(slot.modality for slot in sequence.media_slots)
        return Sized(math.ceil(len(sequence) * factor), math.ceil(len(sequence.predict_at) * factor), media)

    def draws_of(self, source: str, count: int) -> list[Draw]:
        """The first draws of one source."""
        return [Draw(source, self.mixture.index(source, drawn), drawn) for drawn in range(count)]

    def longest(self, source: str, seen: int) -> int:
        """Positions of the longest conversation of a source. seen: of the longest one that was measured"""
        found: Any = self.mixture.sources[source]
        return max(found.longest, seen) if isinstance(found, AssumedSource) else seen


def planned_data(run: PlannedRun, layout: Layout | None, media_lengths: Mapping[str, int], ranks: int) -> PlannedData:
    """Open every source whose files are there, and assume the others.

    layout         None when the template needs a tokenizer that is not there
    media_lengths  modality -> positions of an item
    """
    config = run.config
    choices = {f"data.sources.{name}": (one, name) for name, one in config.data.sources.items()}
    local = {at: one for at, one in choices.items() if not getattr(one[0].config, "is_remote", False)}
    found, problems = open_choices(local, run.opened.origins)
    why = {problem.path.split(".")[2]: problem.message for problem in reversed(problems)}
    why |= {name: "remote shards are not opened for a plan" for at, (_, name) in choices.items() if at not in local}
    sources: dict[str, Any] = {}
    for at, (choice, name) in choices.items():
        sources[name] = found.get(at) or _assumed(name, choice, layout, media_lengths, run)
    settled = steps_settled(config.data, config.run, sources, ranks)
    return PlannedData(run_mixture(config.data, settled, sources, ranks), why, layout, frozenset(config.data.batches))


def _assumed(
    name: str, choice: Choice[Any], layout: Layout | None, media_lengths: Mapping[str, int], run: PlannedRun
) -> AssumedSource:
    known = known_sizes()
    settings = known["sources"].get(name)
    usual = known["builders"].get(choice.name, known["builders"]["dialogues"])
    num_media = (settings or usual).get("media", 1)
    modalities = _modalities(choice, run) if num_media else ()
    routed = [one for one in modalities if one in media_lengths]
    turns = (settings or usual).get("turns", 1)
    template = layout.template.config if layout is not None else None
    return AssumedSource(
        name,
        choice.config,
        settings is not None,
        settings or usual,
        frozenset(modalities),
        round(num_media * sum(media_lengths[one] for one in routed)) + template_tokens(layout, turns),
        num_media,
        limit=None if layout is None else layout.longest,
        answer_limit=getattr(template, "max_tokens", None),
    )


def _modalities(choice: Choice[Any], run: PlannedRun) -> tuple[str, ...]:
    """Those that the settings or the builder state (text-only ones: none), else the first of the model."""
    stated = getattr(choice.config, "modalities", getattr(choice.part, "modalities", None))
    return tuple(run.config.model.routes)[:1] if stated is None else tuple(stated)


def template_tokens(layout: Layout | None, turns: int) -> int:
    """Positions that a template adds to the texts of a conversation with so many questions and answers."""
    if layout is None:
        return 20 + 8 * turns
    messages = (Message("user", (Text("x"),)), Message("assistant", (Text("x"),))) * turns
    factor = TOKENS_PER_WORD if isinstance(layout.tokenizer, WordTokenizer) else 1.0
    try:
        length = len(layout.training_sequence(messages))
    except (ConfigError, ValueError):
        return 20 + 8 * turns
    return max(1, round(factor * (length - 2 * turns)) - END_TOKENS * turns)


__all__ = ["AssumedSource", "PlannedData", "Sized", "planned_data", "template_tokens"]
