"""The only model class: media -> encoder -> bridge -> fusion -> language model -> text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.types import Batch, Features, LossSum
from chatbridge.config.constraints import Choice
from chatbridge.conversation.stop_strings import BatchStops
from chatbridge.models.added_tokens import AddedTokens
from chatbridge.models.bridges import Bridge
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import Encoder
from chatbridge.models.fusion import Context, Fusion, check_slots
from chatbridge.models.language import GenerateOptions, LanguageModel
from chatbridge.models.language._token_sampling import Processors
from chatbridge.models.language.base import Between
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding, Generation, OnId
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts, left_padded
from chatbridge.models.language.generation import start_generation
from chatbridge.models.language.likelihood import Likelihood, likelihoods
from chatbridge.models.language.reading import read_ahead
from chatbridge.models.loss import USUAL_VOCABULARY, cross_entropy, most_logits
from chatbridge.models.routes import Route
from chatbridge.models.source_losses import per_source
from chatbridge.models.trainable import keep_frozen_in_eval


class ChatModel(nn.Module):
    """A multimodal chat model, built from a ModelConfig without reading weights (see loading.load_weights).

    It can be built under `torch.device("meta")`, without memory.
    raises   ConfigError when a component cannot be built
    """

    encoders: nn.ModuleDict
    bridges: nn.ModuleDict
    language: LanguageModel
    fusion: Fusion
    added_tokens: AddedTokens | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32  # autocast dtype; frozen parameters are stored in it, trainable ones in fp32
        self.loss_chunk_mb: int | None = None  # see models/loss.py
        self.filled: frozenset[str] = frozenset()  # components that `config.weights` has filled
        self.carried: frozenset[str] = frozenset()  # frozen tensors that checkpoints hold, see component_tensors.carry
        self.encoders = nn.ModuleDict()
        for name, choice in config.encoders.items():
            with _named(f"model.encoders.{name}"):
                self.encoders[name] = build_encoder(choice, config.modalities_of(name))
        with _named("model.language"):
            language = config.language.part(config.language.config)
        with _named("model.fusion"):
            fusion = config.fusion.part(config.fusion.config, language.width)
        self.bridges = nn.ModuleDict()
        for name, choice in config.bridges.items():
            with _named(f"model.bridges.{name}"):
                self.bridges[name] = choice.part(choice.config, self._widths(name), fusion.media_width)
        self.fusion = fusion
        self.language = language
        with _named("model.fusion"):
            self.fusion.attach(language)
        with _named("model.added_tokens"):
            self.added_tokens = (
                AddedTokens(config.added_tokens, language, config.random_init_tokens) if config.added_tokens else None
            )
        for modality, route in self.routes.items():
            with _named(f"model.bridges.{config.routes[modality].bridge}", modality):
                _ = route.num_tokens  # raises when the features do not divide into the groups of the bridge

    def _widths(self, bridge: str) -> dict[str, int]:
        """Modality -> W of the features that this bridge reads."""
        routes = self.config.routes.items()
        return {modality: self._encoder(route.encoder).width for modality, route in routes if route.bridge == bridge}

    def _encoder(self, name: str) -> Encoder:
        return cast("Encoder", self.encoders[name])

    @property
    def routes(self) -> dict[str, Route]:
        """Modality -> its route through an encoder and a bridge."""
        return {
            modality: Route(
                modality, self._encoder(route.encoder), cast("Bridge", self.bridges[route.bridge]), route.pieces_config
            )
            for modality, route in self.config.routes.items()
        }

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def media_lengths(self) -> dict[str, int]:
        """Modality -> number of slots that one item takes in a token sequence, for the layout."""
        return {modality: self.fusion.num_slots(route.num_tokens) for modality, route in self.routes.items()}

    def slot_tokens(self) -> dict[str, str]:
        """Modality -> the token that fills the slots of an item, for modalities where it is not padding."""
        named = {modality: self.fusion.slot_token(modality) for modality in self.config.routes}
        return {modality: token for modality, token in named.items() if token is not None}

    def processors(self, train: bool) -> dict[str, Any]:
        """Modality -> the processor that turns a media file into this model's input."""
        return self.config.processors(train)

    def media_tokens(self, media: Mapping[str, Tensor | Features]) -> dict[str, Tensor]:
        """The bridge tokens of media.

        media    modality -> float[M, ...] or float[M, T, ...]; images and video also as uint8; or Features of M items
        returns  modality -> float[M, K, W], without modalities that have no item; W is the fusion's `media_width`
        raises   ValueError for a modality without a route, or media of the wrong shape
        """
        routes = self.routes
        unknown = sorted(set(media) - set(routes))
        if unknown:
            raise ValueError(f"no route for {', '.join(unknown)}; this model has routes for {', '.join(routes)}")
        return {modality: routes[modality].tokens(items) for modality, items in media.items() if len(items)}

    def prepared(self, batch: Batch, media_tokens: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Context | None]:
        """The input of the language model, float[B, L, D], and the context of the fusion's layers inside it.

        batch         ids int64[B, L], media modality -> [M, ...], media_slots modality -> int64[M, slots]
        media_tokens  those of its media, if the caller has them: modality -> float[M, K, W]
        raises        ValueError for media without a route, or media that do not match their slots in number or length
        """
        tokens = self.media_tokens(batch.media) if media_tokens is None else media_tokens
        check_slots(self.fusion, tokens, batch)
        return self.fusion.prepare(self.language.embed(batch.ids), tokens, batch)

    def forward(self, batch: Batch) -> LossSum:
        """The sum of the cross-entropy (fp32) over the S supervised points; logits are computed only there.

        batch    ids and positions int64[B, L], predict_at and target int64[S]
        returns  total float[], the number of points, and both per data source
        """
        with self._precision():
            embeds, context = self.prepared(batch)  # [B, L, D]
            self.fusion.show(context)
            points = self.language.states_at(batch.predict_at, embeds, batch.positions, batch.segments)  # [S, D]
            total, losses = self._cross_entropy(points, batch.target)
        return LossSum(total, batch.num_supervised, per_source(losses, batch))

    def _cross_entropy(self, points: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """points float[S, D], target int64[S] -> the summed loss float[], and float[S] without a gradient"""
        vocabulary = (self.language.num_embeddings or USUAL_VOCABULARY) + len(self.config.added_tokens)
        most_bytes = most_logits(self.loss_chunk_mb, points.device, self.language.head)
        return cross_entropy(self.language.logits, points, target, vocabulary, most_bytes)

    def generate(
        self,
        batch: Batch,
        options: GenerateOptions | Sequence[GenerateOptions] | None = None,
        stops: BatchStops = (),
        on_id: OnId | None = None,
        cache: Cache | None = None,
    ) -> list[list[int]]:
        """The answers to B prompts, as new ids without their stop sequence; see `start_generation`.

        on_id   called with (prompt number, new id) for each id; not called with beam search
        """
        generation = self.start_generation(batch, options, stops, cache)
        while not generation.is_done:
            for row, new in generation.step().items():
                if on_id is not None:
                    on_id(row, new)
        return generation.answers

    @torch.no_grad()
    def start_generation(
        self,
        batch: Batch,
        options: GenerateOptions | Sequence[GenerateOptions] | None = None,
        stops: BatchStops = (),
        cache: Cache | None = None,
        processors: Processors = (),
        media_tokens: Mapping[str, Tensor] | None = None,
        between: Between | None = None,
    ) -> Generation:
        """A generation of answers to B prompts of any lengths; each `step` adds a token to every unfinished answer.

        batch       ids int64[B, L] padded on the right, with lengths int64[B] and media
        options     for all prompts, or one for each, with its own limit and seed
        stops       stop strings (Layout.stops): for all prompts, or one for each
        cache       from `language.new_cache()`, empty or with earlier turns of these conversations; then the batch has
                    only what comes after them. Prompts and answers are added to it
        processors  additional logits processors of transformers
        media_tokens  see `prepared`
        between     called before every pass of a beam search, see LanguageModel.beam_search
        raises      ValueError for packed sequences, and see language.generation.start_generation
        """
        with self._precision():
            prompts = self.prompts(batch, cache, media_tokens)
        options = options or GenerateOptions()
        return start_generation(self.language, prompts, options, stops, cache, processors, self._precision, between)

    @torch.no_grad()
    def likelihoods(self, batch: Batch, continuations: Sequence[Sequence[int]]) -> list[Likelihood]:
        """The likelihoods of continuations of one prompt, which is read once.

        batch    ids int64[1, L] with media; see Batch.row
        raises   ValueError for several prompts, or a continuation without ids
        """
        with self._precision():
            return likelihoods(self.language, self.prompts(batch), continuations)

    @torch.no_grad()
    def append(self, generation: Decoding, batch: Batch, row: int | None = None) -> None:
        """Append text and media to the unfinished answers of a generation, which then continues after them.

        batch    ids int64[R, n], one sequence of n tokens for each of the R unfinished answers
        row      only to this answer, from where `Decoding.take_back` left it; then R is 1
        raises   ValueError when the sequences differ in length; DataError when the fusion must read the whole
                 conversation again, because media come to it (`Decoding.restart`)
        """
        if generation.cache.length:
            self.fusion.check_continued(cast("Context | None", generation.context_of(row)), batch)
        with self._precision():
            start = generation.next_positions(row)  # [R, 1]
            embeds, context = self.prepared(replace(batch, positions=batch.positions + start))  # [R, n, D]
        if not bool((batch.lengths == batch.ids.shape[1]).all()):
            raise ValueError("sequences of different lengths cannot be appended together")
        generation.append(embeds, context, row)

    @torch.no_grad()
    def restart(self, generation: Decoding, batch: Batch, row: int) -> None:
        """Read the sequence of one unfinished answer again.

        batch   ids int64[1, L] with media: its prompt, and what its answer has so far
        """
        with self._precision():
            generation.restart(row, self.prompts(batch))

    def prompts(
        self, batch: Batch, cache: Cache | None = None, media_tokens: Mapping[str, Tensor] | None = None
    ) -> EmbeddedPrompts:
        """The embedded prompts of a batch, float[B, L, D] padded on the left; positions continue those of the cache.

        media_tokens  see `prepared`
        raises        ValueError for packed sequences and side texts
        """
        if batch.segments is not None:
            raise ValueError(
                "each prompt needs a sequence of its own, without side texts; collate with Layout.prompt, unpacked"
            )
        if cache is not None and cache.length:
            self.fusion.check_continued(cast("Context | None", cache.context), batch)
            start = cache.positions(1, batch.ids.device)
            batch = replace(batch, positions=batch.positions + start)
        unpadded, context = self.prepared(batch, media_tokens)
        embeds, mask = left_padded(unpadded, batch.lengths)  # [B, L, D], [B, L]
        return EmbeddedPrompts(embeds, mask, context, self.fusion.show)

    @torch.no_grad()
    def embedded(
        self, batch: Batch, cache: Cache | None = None, media_tokens: Mapping[str, Tensor] | None = None
    ) -> EmbeddedPrompts:
        """As `prompts`, float[B, L, D], without gradients and in the precision of generations; see `Decoding.admit`."""
        with self._precision():
            return self.prompts(batch, cache, media_tokens)

    @torch.no_grad()
    def encoded(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `media_tokens`, float[M, K, W], on the device, without gradients, in the precision of generations."""
        with self._precision():
            return self.media_tokens({modality: items.to(self.device) for modality, items in media.items()})

    def read_ahead(self, prompt: EmbeddedPrompts, cache: Cache, num_positions: int) -> EmbeddedPrompts:
        """Read the first positions of a prompt into its cache; see `language.reading.read_ahead`."""
        with self._precision():
            return read_ahead(self.language, prompt, cache, num_positions)

    def new_decoding(self) -> Decoding:
        """A generation without prompts, to which rows are admitted while it runs."""
        return Decoding(self.language, precision=self._precision)

    def train(self, mode: bool = True) -> ChatModel:
        """Set training mode; frozen components stay in eval mode."""
        super().train(mode)
        self.fusion.is_learning = mode
        if mode:
            keep_frozen_in_eval(self)
        return self

    def _precision(self) -> AbstractContextManager[Any]:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute_dtype)


@contextmanager
def _named(path: str, modality: str | None = None) -> Iterator[None]:
    """Turn a ValueError of a component into a ConfigError with the path of its settings and the route's modality."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        of_route = f" (model.routes.{modality})" if modality else ""
        raise ConfigError([Problem(path, f"{error}{of_route}")]) from error


def build_encoder(choice: Choice[Encoder], modalities: frozenset[str]) -> Encoder:
    """An encoder; on the meta device if a file has its weights, since initialising a billion values takes a while.

    modalities   those that the model's routes send to it
    """
    with torch.device("meta") if choice.config.weights is not None else nullcontext():
        return choice.part.for_routes(choice.config, modalities)
