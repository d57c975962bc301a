"""Start a generation of answers that may draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.conversation.answer_parts import num_captions
from chatbridge.conversation.layout import Layout
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing.artist import Artist, Drawn
from chatbridge.models.drawing.decoding import DrawingDecoding, EncoderInput
from chatbridge.models.drawing.row_batches import row_batch
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language._token_sampling import options_per_row
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding
from chatbridge.models.language.generation import SeparateGenerations

BEAMS = "answers with images are generated without beams; set num_beams to 1"


class FewDrawings:
    """A logits processor: an answer with enough drawings does not begin another one.

    most   drawings of an answer
    marks  tokens that open and close a caption
    """

    def __init__(self, most: int, marks: tuple[int, int]) -> None:
        self.most, self.marks = most, marks

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """ids int64[R, n] of the answers so far, scores float[R, V] -> scores"""
        has_enough = [num_captions(row, self.marks) >= self.most for row in ids.tolist()]
        rows = torch.tensor(has_enough, device=scores.device)
        column = scores[:, self.marks[0]].masked_fill(rows, -torch.inf)
        return scores.index_copy(1, torch.tensor([self.marks[0]], device=scores.device), column[:, None])


class SeparateDrawings(SeparateGenerations):
    """Answers one after the other, for language models that cannot mask padding: images make their lengths differ."""

    def __init__(self, rows: Sequence[DrawingDecoding]) -> None:
        super().__init__(rows)
        self._drawings = rows

    @property
    def drawn(self) -> list[list[Drawn]]:
        return [drawn for one in self._drawings for drawn in one.drawn]

    @property
    def is_full(self) -> list[bool]:
        return [is_full for one in self._drawings for is_full in one.is_full]


def start_drawing(
    model: ChatModel,
    layout: Layout,
    batch: Batch,
    options: GenerateOptions | Sequence[GenerateOptions],
    artist: Artist,
    encoder_input: EncoderInput,
    cache: Cache | None = None,
    rest: Batch | None = None,
) -> DrawingDecoding | SeparateDrawings:
    """A generation of answers to R prompts that renders the captions of images.

    layout         with a template that has `drawing_ids`; its stop strings end the answers
    options        for all prompts, or one for each; `seed` also decides the images
    encoder_input  of a rendered image
    cache, rest    the cache of the beginning of one prompt, and what comes after it; see ChatModel.start_generation
    raises         ValueError for beams
    """
    settings = options_per_row(options, len(batch.ids))
    if settings[0].num_beams > 1:
        raise ValueError(BEAMS)
    seeds = [int(torch.randint(2**31, ())) if one.seed is None else one.seed for one in settings]
    if len(settings) > 1 and not model.language.new_cache().store.paddable:
        rows = [
            _started(model, layout, row_batch(batch, row), [settings[row]], [seeds[row]], artist, encoder_input)
            for row in range(len(settings))
        ]
        return SeparateDrawings(rows)
    return _started(model, layout, batch, settings, seeds, artist, encoder_input, cache, rest)


def _started(
    model: ChatModel,
    layout: Layout,
    batch: Batch,
    settings: list[GenerateOptions],
    seeds: list[int],
    artist: Artist,
    encoder_input: EncoderInput,
    cache: Cache | None = None,
    rest: Batch | None = None,
) -> DrawingDecoding:
    decoding = model.start_generation(
        batch if rest is None else rest, settings, layout.stops, cache, drawing_limit(layout, settings)
    )
    assert isinstance(decoding, Decoding), "without beams, and of models that can mask padding"
    limit = model.language.max_positions
    return DrawingDecoding(model, layout, decoding, batch, artist, encoder_input, seeds, limit)


def drawing_limit(layout: Layout, settings: Sequence[GenerateOptions]) -> tuple[FewDrawings, ...]:
    """The logits processor of `max_drawings`; none without a limit. raises ValueError for prompts that differ in it"""
    marks = layout.template.drawing_ids
    limits = {one.max_drawings for one in settings}
    if len(limits) > 1:
        raise ValueError("prompts with different max_drawings cannot be generated together")
    (most,) = limits
    return () if most is None or marks is None else (FewDrawings(most, marks),)


__all__ = ["BEAMS", "FewDrawings", "SeparateDrawings", "drawing_limit", "start_drawing"]
