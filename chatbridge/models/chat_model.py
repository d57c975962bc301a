"""The only model class: encoders read, bridges translate, a fusion places, a language model answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.types import Batch, LossSum
from chatbridge.config.constraints import Choice
from chatbridge.conversation.stop_strings import BatchStops
from chatbridge.models.added_tokens import AddedTokens
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import Encoder
from chatbridge.models.fusion import Context, Fusion, check_slots
from chatbridge.models.language import GenerateOptions, LanguageModel
from chatbridge.models.language._token_sampling import Processors
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding, EmbeddedPrompts, Generation, OnId, left_padded
from chatbridge.models.language.generation import start_generation
from chatbridge.models.routes import Route
from chatbridge.models.source_losses import per_source
from chatbridge.models.trainable import keep_frozen_in_eval


class ChatModel(nn.Module):
    """Put together from a ModelConfig. Reads no weights: see loading.load_weights.

    Also builds under `torch.device("meta")`, without memory. raises ConfigError when a part cannot be built.
    """

    encoders: nn.ModuleDict
    bridges: nn.ModuleDict
    language: LanguageModel
    fusion: Fusion
    added_tokens: AddedTokens | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32  # of what trains; what is frozen is kept in it
        self.encoders = nn.ModuleDict()
        for name, choice in config.encoders.items():
            with _named(f"model.encoders.{name}"):
                self.encoders[name] = _encoder(choice)
        with _named("model.language"):
            language = config.language.part(config.language.config)
        width = language.width
        self.bridges = nn.ModuleDict()
        for name, choice in config.bridges.items():
            with _named(f"model.bridges.{name}"):
                self.bridges[name] = choice.part(choice.config, self._widths(name), width)
        with _named("model.fusion"):
            self.fusion = config.fusion.part(config.fusion.config, width)
        self.language = language
        with _named("model.fusion"):
            self.fusion.attach(language)
        with _named("model.added_tokens"):
            self.added_tokens = AddedTokens(config.added_tokens, language) if config.added_tokens else None
        for modality, route in self.routes.items():
            with _named(f"model.bridges.{config.routes[modality].bridge}", modality):
                _ = route.num_tokens  # a bridge may find that the features do not divide into its groups

    def _widths(self, bridge: str) -> dict[str, int]:
        """modality -> width of the features that reach this bridge"""
        routes = self.config.routes.items()
        return {modality: self.encoders[way.encoder].width for modality, way in routes if way.bridge == bridge}

    @property
    def routes(self) -> dict[str, Route]:
        ways = self.config.routes
        return {
            modality: Route(modality, self.encoders[way.encoder], self.bridges[way.bridge], way.pieces_config)
            for modality, way in ways.items()
        }

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def media_lengths(self) -> dict[str, int]:
        """modality -> places of one item in a row, for the layout"""
        return {modality: self.fusion.num_slots(route.num_tokens) for modality, route in self.routes.items()}

    def slot_tokens(self) -> dict[str, str]:
        """modality -> the token that stands in the slots of an item, where it is not padding"""
        named = {modality: self.fusion.slot_token(modality) for modality in self.config.routes}
        return {modality: token for modality, token in named.items() if token is not None}

    def processors(self, train: bool) -> dict[str, Any]:
        """modality -> what turns a file into this model's input"""
        return processors(self.config, train)

    def media_tokens(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """modality -> float[M, K, D]"""
        routes = self.routes
        unknown = sorted(set(media) - set(routes))
        if unknown:
            raise ValueError(f"no route for {', '.join(unknown)}; this model has routes for {', '.join(routes)}")
        return {modality: routes[modality].tokens(items) for modality, items in media.items() if len(items)}

    def prepared(self, batch: Batch) -> tuple[Tensor, Context | None]:
        """Rows for the language model, float[B, L, D], and what the fusion's layers inside it see.

        raises   ValueError for media without a route, or that differ from their slots in number or length
        """
        tokens = self.media_tokens(batch.media)
        check_slots(self.fusion, tokens, batch)
        return self.fusion.prepare(self.language.embed(batch.ids), tokens, batch)

    def forward(self, batch: Batch) -> LossSum:
        """Summed cross-entropy (fp32) at the S supervised points; logits exist at those only."""
        with self._precision():
            rows, context = self.prepared(batch)
            self.fusion.show(context)
            hidden = self.language(rows, batch.positions, batch.segments)  # [B, L, D]
            logits = self.language.logits(hidden.flatten(0, 1)[batch.predict_at])  # [S, vocabulary]
        losses = F.cross_entropy(logits.float(), batch.target, reduction="none")  # [S]
        return LossSum(losses.sum(), batch.num_supervised, per_source(losses.detach(), batch))

    def generate(
        self,
        batch: Batch,
        options: GenerateOptions | Sequence[GenerateOptions] | None = None,
        stops: BatchStops = (),
        on_id: OnId | None = None,
        cache: Cache | None = None,
    ) -> list[list[int]]:
        """Answers to B prompts of any lengths, as new ids without their stop sequence; see `start_generation`.

        on_id   called with (row, new id) while they come; not with beams
        """
        growing = self.start_generation(batch, options, stops, cache)
        while not growing.is_done:
            for row, new in growing.step().items():
                if on_id is not None:
                    on_id(row, new)
        return growing.answers

    @torch.no_grad()
    def start_generation(
        self,
        batch: Batch,
        options: GenerateOptions | Sequence[GenerateOptions] | None = None,
        stops: BatchStops = (),
        cache: Cache | None = None,
        processors: Processors = (),
    ) -> Generation:
        """Answers to B prompts of any lengths that grow with every `step`; leaving them ends the generation.

        options     of all rows, or one for each, with its own limit and seed
        stops       what ends an answer (Layout.stops): of all rows, or one for each
        cache       what `language.new_cache()` gave, empty or of earlier turns of these rows: then the batch holds what
                    comes after them. It takes in the prompts and answers, and outlives the call
        processors  more of transformers' logits processors
        """
        with self._precision():
            prompts = self.prompts(batch, cache)
        options = options or GenerateOptions()
        return start_generation(self.language, prompts, options, stops, cache, processors, self._precision)

    @torch.no_grad()
    def append(self, growing: Decoding, batch: Batch) -> None:
        """Put words and media into answers that are not done, which go on after them: batch has a row for each."""
        with self._precision():
            start = growing.next_positions()
            rows, context = self.prepared(replace(batch, positions=batch.positions + start))
        if not bool((batch.lengths == batch.ids.shape[1]).all()):
            raise ValueError("rows of different lengths cannot be appended together")
        growing.append(rows, context)

    def prompts(self, batch: Batch, cache: Cache | None = None) -> EmbeddedPrompts:
        """What the language model is asked with; positions count on from those of the cache.

        raises   ValueError for packed rows and side texts
        """
        if batch.segments is not None:
            raise ValueError("prompts need a row each, without side texts; collate them with Layout.prompt, unpacked")
        if cache is not None and cache.length:
            start = cache.positions(1, batch.ids.device)
            batch = replace(batch, positions=batch.positions + start)
        rows, context = self.prepared(batch)
        embeds, mask = left_padded(rows, batch.lengths)
        return EmbeddedPrompts(embeds, mask, context, self.fusion.show)

    def train(self, mode: bool = True) -> ChatModel:
        """Training mode for what trains; frozen parts stay in eval mode."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self)
        return self

    def _precision(self) -> AbstractContextManager[Any]:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute_dtype)


@contextmanager
def _named(path: str, modality: str | None = None) -> Iterator[None]:
    """What a part says against its settings, with the place of those settings and the modality of the route."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        of_route = f" (model.routes.{modality})" if modality else ""
        raise ConfigError([Problem(path, f"{error}{of_route}")]) from error


def _encoder(choice: Choice[Encoder]) -> Encoder:
    """An encoder whose values a file will bring is built without memory: drawing a billion of them takes a while."""
    with torch.device("meta") if choice.config.weights is not None else nullcontext():
        return choice.part(choice.config)


def processors(config: ModelConfig, train: bool) -> dict[str, Any]:
    """The same as ChatModel.processors, without building a model."""
    return {
        modality: config.encoders[route.encoder].config.processor(modality, train, route.pieces_config.count)
        for modality, route in config.routes.items()
    }
