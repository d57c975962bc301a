"""How a request begins: its cached prompt, its media, and a long prompt in pieces between the steps of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from chatbridge.common.types import Batch
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import Artist, start_drawing
from chatbridge.models.drawing.decoding import EncoderInput
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.serve.caches.encoded_media import EncodedMedia
from chatbridge.serve.caches.prompt_cache import Digests, PromptCache
from chatbridge.serve.scheduler.counters import Counters
from chatbridge.serve.scheduler.lanes import Keep, SoloLane
from chatbridge.serve.scheduler.requests import Begun, Request


@dataclass
class Beginning:
    """A request whose prompt is being read.

    cache   what was read already
    rest    what comes after it
    """

    request: Request
    cache: Cache
    rest: EmbeddedPrompts

    @property
    def num_left(self) -> int:
        """Positions that are not read yet."""
        return self.rest.embeds.shape[1]


class Beginnings:
    """Takes the beginning of a prompt from the caches, and encodes only media that are new. Used by one thread."""

    def __init__(
        self,
        model: ChatModel,
        prompt_cache: PromptCache,
        encoded: EncodedMedia,
        artist: Callable[[], Artist],
        encoder_input: EncoderInput,
    ) -> None:
        """
        artist         renders the images of answers
        encoder_input  of a rendered image
        """
        self.model, self.prompt_cache, self.encoded = model, prompt_cache, encoded
        self.counters = Counters()
        self._artist, self._encoder_input = artist, encoder_input

    def begin(self, request: Request) -> Beginning:
        """The beginning of a request that joins a batch; nothing of its prompt is read yet.

        raises   whatever the encoders raise
        """
        cache, rest = self.prompt_cache.take(self.model, request.batch, request.digests)
        tokens, num_encoded = self.encoded.tokens(self.model, rest.media, _digests_of(rest, request.digests))
        found = Beginning(request, cache, self.model.embedded(rest, cache, tokens))
        self._tell(request, cache.length, num_encoded)
        return found

    def read_some(self, beginning: Beginning, num_positions: int) -> None:
        """Read so many positions of its prompt; at least one is left for the batch that it joins."""
        beginning.rest = self.model.read_ahead(beginning.rest, beginning.cache, num_positions)

    def can_be_read_in_pieces(self, cache: Cache) -> bool:
        """Whether pieces of a prompt cost no more than all at once."""
        return cache.store.croppable and not cache.store.rereads

    def alone(self, request: Request, keep: Keep, between: Callable[[SoloLane], bool]) -> SoloLane:
        """A request that runs by itself: beams, or an answer with images.

        between   called with the lane before every pass of a beam search; True ends the search
        """
        if request.options.num_beams > 1:
            tokens, num_encoded = self.encoded.tokens(self.model, request.batch.media, request.digests)
            lane: list[SoloLane] = []
            generation = self.model.start_generation(
                request.batch,
                request.options,
                request.layout.stops,
                media_tokens=tokens,
                between=lambda: between(lane[0]),
            )
            self._tell(request, 0, num_encoded)
            lane.append(SoloLane(request, generation, None, keep))
            return lane[0]
        cache, rest = self.prompt_cache.take(self.model, request.batch, request.digests)
        self._tell(request, cache.length, sum(map(len, rest.media.values())))
        drawing = start_drawing(
            self.model, request.layout, request.batch, request.options, self._artist(), self._encoder_input, cache, rest
        )
        return SoloLane(request, drawing, cache, keep)

    def forget(self) -> None:
        """Free the memory of the caches, also on the device."""
        self.prompt_cache.forget()
        self.encoded.forget()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _tell(self, request: Request, num_cached: int, num_encoded: int) -> None:
        waited_s = time.monotonic() - request.asked_at
        self.counters.add("tokens_total", prompt=request.num_prompt, cached=num_cached, media=request.num_media)
        self.counters.add("seconds_total", waiting=waited_s)
        request.events.put(Begun(waited_s, num_cached, num_encoded))


def seeded(request: Request) -> None:
    """Give a sampled answer without a seed one of torch's global state, so that it can be repeated."""
    options = request.options
    if options.sample and options.seed is None and options.num_beams == 1:
        request.options = replace(options, seed=int(torch.randint(2**63 - 1, ())))


def _digests_of(rest: Batch, digests: Digests) -> dict[str, list[bytes]]:
    """Those of the media that are left: the last ones of each modality."""
    return {name: list(digests[name])[len(digests[name]) - len(items) :] for name, items in rest.media.items()}


__all__ = ["Beginning", "Beginnings", "seeded"]
