"""Floating-point operations of a training step by component, from the model and the shape of a batch.

Matrix products and convolutions are counted, two operations per multiply-add, as torch's FlopCounterMode does; norms,
activations and the optimizer are below one percent. A product costs once its forward pass, once more where a gradient
flows to its input, once more where its weight is trained: a frozen encoder in front of everything has 1 x, a frozen
language model through which a gradient flows 2 x, a trained part 3 x. Attention counts the full square of a sequence
(as FlopCounterMode; the causal half is not subtracted); the head counts at the supervised points only.

Encoders and bridges are measured once per shape: their code runs on the meta device, forward and backward, with the
parameters of the model replaced by empty ones. The language model is counted by formula, so no position is computed.
Build `StepFlops` before the model is compiled or sharded. Repeated forward passes (activation checkpointing) are kept
apart: they are executed, but not work of the model, so MFU does not count them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.common.types import Batch, Features
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.flops_fusion import MediaTokens, ReaderCost
from chatbridge.models.flops_parts import Flops, LinearLayers, is_trainable, measured, on_meta
from chatbridge.models.language._last_layer import skippable
from chatbridge.models.routes import Route, merge_frames

LANGUAGE, HEAD, FUSION = "language", "head", "fusion"


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The sizes of a batch (one micro-batch of one rank, or anything that is run at once).

    rows     B
    length   L, padding included
    points   S
    media    modality -> shape of its media, M first: (8, 3, 224, 224); with pieces (8, 4, 3, 224, 224)
    cached   modalities whose media are features from a cache, of shape (M, T * N, W): their encoder does not run
    pairs    query-key pairs of all rows; None: B * L * L. Of packed rows, the sum of the squared conversation lengths
    batches  number of batches of equal size that these rows are, one run after another
    """

    rows: int
    length: int
    points: int
    media: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    pairs: float | None = None
    batches: int = 1

    @staticmethod
    def of(batch: Batch, pairs: float | None = None) -> BatchShape:
        """The shape of a batch; nothing waits for the device."""
        found = {name: one for name, one in batch.media.items() if len(_values(one))}
        cached = frozenset(name for name, one in found.items() if not isinstance(one, Tensor))
        rows, length = batch.ids.shape
        media = {name: tuple(_values(one).shape) for name, one in found.items()}
        return BatchShape(
            rows=rows, length=length, points=batch.num_supervised, media=media, cached=cached, pairs=pairs
        )

    @property
    def num_pairs(self) -> float:
        return self.rows * self.length**2 if self.pairs is None else self.pairs


def _values(media: Any) -> Tensor:
    """The tensor of media, or of cached features. float[M, ...]"""
    return media if isinstance(media, Tensor) else media.x


def step_flops(model: ChatModel, shape: BatchShape, checkpointed: Collection[str] = ()) -> dict[str, Flops]:
    """Component (encoders.vision, bridges.perceiver, language, head) -> its operations for one batch, forward and
    backward. Loops that count often keep a `StepFlops`.

    checkpointed   components with activation checkpointing, by name: "language", "encoders.vision"
    """
    return StepFlops(model, checkpointed)(shape)


def total(parts: Mapping[str, Flops]) -> Flops:
    """The sum over components."""
    return sum(parts.values(), Flops())


_MEASURED: dict[str, dict[str, Flops]] = {}  # `_description` of an item -> its costs: a plan builds a model often


class StepFlops:
    """batch shape -> operations by component. Costs of one item are measured once per modality and number of pieces."""

    def __init__(self, model: ChatModel, checkpointed: Collection[str] = ()) -> None:
        self.model = model
        self.checkpointed = frozenset(checkpointed)
        self._language = LanguageCost(model)
        self._items: dict[tuple[str, tuple[int, ...], bool], dict[str, Flops]] = {}

    def __call__(self, shape: BatchShape) -> dict[str, Flops]:
        parts: dict[str, Flops] = {}
        is_trained = self._language.trains_embedding
        tokens, trains_media = 0, False
        for modality, size in shape.media.items():
            route, is_cached = self.model.routes[modality], modality in shape.cached
            trains_media |= is_trainable(route.bridge) or (is_trainable(route.encoder) and not is_cached)
            tokens += size[0] * route.num_tokens
            key = (modality, size[1:], is_cached)
            if key not in self._items:
                same = _description(route, self.model.config.routes[modality], *key)
                if same not in _MEASURED:
                    _MEASURED[same] = self._item(route, size[1:], is_cached)
                self._items[key] = _MEASURED[same]
            for name, cost in self._items[key].items():
                parts[name] = parts.get(name, Flops()) + cost * size[0]
        if self._language.readers:  # media are not in the input of the language model
            media = MediaTokens(tokens, trains_media) if tokens else None
            parts |= self._language(shape, is_trained, LANGUAGE in self.checkpointed, media)
        else:
            parts |= self._language(shape, is_trained or trains_media, LANGUAGE in self.checkpointed)
        return {name: self._with_repeats(name, cost) for name, cost in parts.items()}

    def with_checkpointing(self, components: Collection[str]) -> StepFlops:
        """The same counts, with these components repeated; what was measured is shared."""
        other = copy(self)
        other.checkpointed = frozenset(components)
        return other

    def _with_repeats(self, name: str, cost: Flops) -> Flops:
        """A checkpointed part computes its layers again before their backward pass."""
        return cost if name in self.checkpointed else Flops(cost.forward, cost.backward)

    def _item(self, route: Route, size: tuple[int, ...], is_cached: bool) -> dict[str, Flops]:
        """Component -> cost of one item of this shape."""
        way = self.model.config.routes[route.modality]
        num_features = route.encoder.num_tokens(route.modality)
        features, num_pieces = _cached_features(route, size) if is_cached else _features(route, size)
        encoder, times = Flops(), 1 if route.bridges_once else num_pieces
        if not is_cached:
            encoder = measured(route.encoder, lambda: _encode(route, size), num_pieces * num_features)
            features.x.requires_grad_(is_trainable(route.encoder))
        bridge = measured(route.bridge, lambda: on_meta(route.bridge, features, route.modality), route.num_tokens)
        return {f"encoders.{way.encoder}": encoder, f"bridges.{way.bridge}": bridge * times}


def _description(route: Route, *more: Any) -> str:
    """A digest of all that the costs of an item follow from: the parts' classes, settings and tensors, and `more`."""
    facts: list[Any] = [more, route.pieces, route.num_tokens]
    for part in (route.encoder, route.bridge):
        facts += [type(part), id(type(part)), part.config]
        facts += [(name, *one.shape, one.requires_grad) for name, one in part.named_parameters()]
        facts += [(name, *one.shape) for name, one in part.named_buffers()]
    return blake2b(repr(facts).encode()).hexdigest()


class LanguageCost:
    """Operations of the decoder and the head, from the sizes of their linear layers and of their attention."""

    def __init__(self, model: ChatModel) -> None:
        language: Any = model.language
        self.language = language
        embedding, head = _vocabulary(language)
        self.trains_embedding = is_trainable(embedding) or is_trainable(model.added_tokens)
        layers = _layers(language)
        self.layers = [LinearLayers.of(layer) for layer in layers]
        inside = {id(module) for layer in layers for module in layer.modules()} | {id(head)}
        rest = [module for module in language.modules() if id(module) not in inside]
        self.readers = {number: ReaderCost(reader) for number, reader in model.fusion.readers().items()}
        rest += [] if self.readers else model.fusion.modules()
        self.rest = LinearLayers.of_modules(rest)
        self.head = LinearLayers.of_modules([] if head is None else [head])
        self.attention = _attention_width(language)

    def __call__(
        self, shape: BatchShape, has_gradient: bool, is_checkpointed: bool = False, media: MediaTokens | None = None
    ) -> dict[str, Flops]:
        """has_gradient   whether the embeddings at the input need one

        is_checkpointed   its layers will be computed again, so the last one skips no position
        media             that layers of the fusion read; None: they read none, and do not run
        """
        tokens = shape.rows * shape.length
        scores = 2 * 2 * self.attention * shape.num_pairs  # queries times keys, and probabilities times values
        language = self.rest(has_gradient) * tokens
        has_gradient = has_gradient or self.rest.trains_products
        reading = Flops()
        for number, layer in enumerate(self.layers):
            if media is not None and number in self.readers:
                cost, has_gradient = self.readers[number](shape.rows, shape.length, media, has_gradient)
                reading += cost
            language += layer(has_gradient) * tokens
            has_gradient = has_gradient or layer.is_trainable
            language += Flops(scores, 2 * scores * has_gradient)
            language += Flops(repeated=(layer.repeated() * tokens + scores) * has_gradient)
        lm = getattr(self.language, "lm", None)
        last = None  # a feed-forward part that runs at the supervised points alone
        if lm is not None and not is_checkpointed:
            last = skippable(lm, tokens // shape.batches, shape.points // shape.batches)
        if last is not None:
            language += LinearLayers.of(last)(has_gradient) * (shape.points - tokens)
        has_gradient = has_gradient or self.rest.trains_vectors  # the last norm
        found = {LANGUAGE: language, HEAD: self.head(has_gradient) * shape.points}
        return {FUSION: reading, **found} if self.readers else found


def _layers(language: Any) -> list[nn.Module]:
    try:
        return list(language.decoder_layers)
    except ValueError:  # a family whose layers cannot be found is counted without attention
        return []


def _vocabulary(language: Any) -> tuple[Any, Any]:
    try:
        return language.vocabulary_modules
    except ValueError:
        return None, None


def _attention_width(language: Any) -> float:
    """Heads times channels of a head; 0 for a model without attention, or one whose configuration does not tell."""
    settings = getattr(getattr(language, "lm", None), "config", None)
    if settings is not None:
        settings = settings.get_text_config(decoder=True)
    heads = getattr(settings, "num_attention_heads", None)
    width = getattr(settings, "hidden_size", None) or language.width
    if not isinstance(heads, int):
        return 0.0
    return float(heads * (getattr(settings, "head_dim", None) or width // heads))


def _features(route: Route, size: tuple[int, ...]) -> tuple[Features, int]:
    """The features of one item on the meta device, and its number of pieces."""
    flat, num_pieces = route.flat(torch.empty(1, *size, device="meta"))
    tokens = route.encoder.num_tokens(route.modality)
    features = Features(torch.empty(len(flat), tokens, route.encoder.width, device="meta"))
    if route.pieces.merge == "concat":
        return merge_frames(features, num_pieces), num_pieces
    return Features(features.x[:1]), num_pieces


def _cached_features(route: Route, size: tuple[int, ...]) -> tuple[Features, int]:
    """The same from a cache, size (T * N, W)."""
    num_pieces = max(1, size[0] // route.encoder.num_tokens(route.modality))
    num_features = size[0] if route.pieces.merge == "concat" else size[0] // num_pieces
    x = torch.empty(1, num_features, size[1], device="meta")
    return Features(x, frames=num_pieces if route.pieces.merge == "concat" else 1), num_pieces


def _encode(route: Route, size: tuple[int, ...]) -> Tensor:
    """The features of the pieces of one item, float[T, N, W] on the meta device."""
    flat, _ = route.flat(torch.empty(1, *size, device="meta"))
    return on_meta(route.encoder, flat, route.modality).x
