"""What the scheduler steps in turn: a batch of requests that go on together, or one request that runs by itself.

By themselves run beams, answers with images, and models that cannot mask padding, with one row per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import DrawingDecoding
from chatbridge.models.drawing.positions import Position
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding, Generation
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.serve.scheduler.requests import Finished, Grown, Rendering, Request

Keep = Callable[[Request, Cache, list[Position]], None]  # a prompt, its cache, and what the cache has after it


class Lane(Protocol):
    """Requests that are answered by one generation. Only the scheduler's thread uses it."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """Those that go on."""
        ...

    @property
    def is_parked(self) -> bool:
        """Whether it waits for something beside the model."""
        ...

    def step(self) -> list[tuple[Request, Finished]]:
        """Generate one more token of every request, and tell the callers; returns the answers that are whole."""
        ...

    def end(self, request: Request) -> Finished:
        """End one request before its next token; returns its answer so far, whose cache is kept."""
        ...


class BatchLane:
    """Requests whose answers grow together, a token each per step.

    keep   gets the cache of every request that ends
    """

    is_parked = False

    def __init__(self, model: ChatModel, keep: Keep) -> None:
        self._decoding: Decoding = model.new_decoding()
        self._rows: dict[int, Request] = {}
        self._keep = keep

    @property
    def requests(self) -> tuple[Request, ...]:
        return tuple(self._rows.values())

    @property
    def is_torn(self) -> bool:
        """Whether its requests cannot go on, see Decoding."""
        return self._decoding.is_torn

    def admit(self, request: Request, rest: EmbeddedPrompts, cache: Cache) -> None:
        """Read the rest of a prompt whose beginning is in `cache`; the request joins the batch.

        raises   whatever the model raises; the batch is then as before, unless `is_torn`
        """
        settings = request.settings
        row = self._decoding.admit(rest, request.options, request.layout.stops, cache, settings.top_logprobs)
        self._rows[row] = request

    def step(self) -> list[tuple[Request, Finished]]:
        found = self._decoding.step()
        for number, new in found.items():
            row, request = self._decoding.rows[number], self._rows[number]
            if row.finish is None and len(row.answer) > request.num_told and request.wants_more:
                request.num_told += 1
                request.events.put(Grown((new,), tuple(row.logprobs[-1:])))
        ended = [number for number in found if self._decoding.rows[number].finish is not None]
        return [(self._rows[number], self._leave(number)) for number in ended]

    def end(self, request: Request) -> Finished:
        return self._leave(next(number for number, one in self._rows.items() if one is request))

    def _leave(self, number: int) -> Finished:
        row, request = self._decoding.rows[number], self._rows[number]
        finished = Finished(tuple(row.answer), tuple(row.logprobs[: len(row.answer)]), end=row.finish)
        cache = self._decoding.release(number)
        del self._rows[number]
        self._keep(request, cache, list(row.chosen))
        return finished


class SoloLane:
    """One request with a generation of its own: beams, or an answer with images.

    cache    of the generation, which `keep` gets at its end; None for beams
    is_cut   whether a beam search was ended before its own end
    """

    def __init__(self, request: Request, generation: Generation, cache: Cache | None, keep: Keep) -> None:
        self.generation, self.is_parked = generation, False
        self._request, self._cache, self._keep = request, cache, keep
        self._num_told = 0
        self._is_over = self.is_cut = False

    @property
    def is_search(self) -> bool:
        """Whether one step is a whole beam search."""
        return self._request.options.num_beams > 1

    @property
    def requests(self) -> tuple[Request, ...]:
        return () if self._is_over else (self._request,)

    def step(self) -> list[tuple[Request, Finished]]:
        generation = self.generation
        generation.step()
        if generation.is_done:
            return [(self._request, self.end(self._request))]
        self._tell()
        if isinstance(generation, DrawingDecoding) and generation.rendering:
            self.is_parked = True
            self._request.events.put(Rendering(generation.rendering[0], generation.render))
        return []

    def end(self, request: Request) -> Finished:
        generation, self._is_over = self.generation, True
        drawn, is_full = (), False
        if isinstance(generation, DrawingDecoding):
            drawn, is_full = tuple(generation.drawn[0]), generation.is_full[0]
            if self._cache is not None:
                self._keep(request, self._cache, list(generation.chosen[0]))
        return Finished(tuple(generation.answers[0]), drawn=drawn, is_full=is_full)

    def _tell(self) -> None:
        ids = self.generation.answers[0]
        drawn = tuple(self.generation.drawn[0]) if isinstance(self.generation, DrawingDecoding) else ()
        self._request.events.put(Grown(tuple(ids[self._num_told :]), drawn=drawn))
        self._num_told = len(ids)


__all__ = ["BatchLane", "Keep", "Lane", "SoloLane"]
