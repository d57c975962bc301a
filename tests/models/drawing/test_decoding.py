"""Answers of a batch draw independently of each other, and go on from their images as if read from the beginning."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from chatbridge.conversation.messages import Drawing, Text
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing.artist import Artist, drawing_seed
from chatbridge.models.drawing.start import SeparateDrawings
from chatbridge.models.generators import RenderError, RenderStopped
from chatbridge.models.language import GenerateOptions
from tests.helpers.drawn_rows import (
    CLOSING,
    OPENING,
    Likely,
    Numbered,
    Row,
    drawing_layout,
    drawn_again,
    drawn_together,
    fails,
)
from tests.helpers.gated_models import gated
from tests.helpers.tiny_languages import ATTENTION, REREAD, SIZES
from tests.helpers.tiny_models import tiny_model

ROWS: tuple[Row, ...] = ((1, 5, 7, 9, 4, 11, 12), (1, ("image", 1), 8), (1, 9, 4), (1, 20, ("audio", 2), 22, 3))
OPTIONS = GenerateOptions(max_new_tokens=16)
OFTEN = {"gemma2": (1.5, 2.5), "bloom": (1.5, 2.5), "falcon": (1.5, 2.5)}  # families whose rows draw 0 to 6 images


def inline(family: str) -> ChatModel:
    own: dict[str, Any] = {**SIZES, "model_type": family, "initializer_range": 0.4, **{**ATTENTION, **REREAD}[family]}
    if family == "falcon":
        del own["head_dim"]
    return tiny_model(language={"name": "causal_lm", "architecture": own}).eval()


def often(monkeypatch: pytest.MonkeyPatch, model: ChatModel, **likely: float) -> ChatModel:
    """The same model, which draws often."""
    monkeypatch.setattr(model.language, "logits", Likely(model.language.logits, **likely))
    return model


@pytest.fixture(scope="module")
def drawing() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield often(patch, inline("gemma2"))


def families() -> list[Any]:
    quick = ("gemma2", "falcon")  # a sliding window, and one that is not
    return [pytest.param(one, marks=() if one in quick else pytest.mark.slow) for one in ATTENTION]


@pytest.mark.parametrize("family", families())
def test_answers_of_a_batch_are_those_of_whole_sequences(family, monkeypatch):
    """fails when an answer depends on the drawings of others, or goes on from something else than its image at the
    position where the caption began"""
    model = often(monkeypatch, inline(family))
    together = drawn_together(model, ROWS, OPTIONS, Numbered())
    assert together.answers == [drawn_again(model, row, OPTIONS) for row in ROWS]
    if family in ("gemma2", "falcon"):
        assert len({len(drawn) for drawn in together.drawn}) > 1, "rows draw differently often"


@pytest.mark.parametrize("reach", ["previous", pytest.param("next", marks=pytest.mark.slow)])
def test_layers_that_read_media_see_drawn_images(reach, monkeypatch):
    """fails when an image is not seen by cross-attention, or a row without media is not read again for its first one"""
    model = often(monkeypatch, gated(media=reach, gate=2.0))
    together = drawn_together(model, ROWS[:2], OPTIONS, Numbered())
    assert together.answers == [drawn_again(model, row, OPTIONS) for row in ROWS[:2]]
    assert len(together.drawn[0]) > 1, "a row without media draws"


def test_a_model_that_reads_everything_again_draws_row_by_row(monkeypatch):
    """fails when rows of a model that cannot mask padding are put into one cache after images of different rows"""
    model = often(monkeypatch, inline("rwkv"))
    rows = [(1, 5, 7), (1, 9, 4)]
    together = drawn_together(model, rows, GenerateOptions(max_new_tokens=10), Numbered())
    assert isinstance(together, SeparateDrawings) and any(together.drawn)
    assert together.answers == [drawn_again(model, row, GenerateOptions(max_new_tokens=10)) for row in rows]


def test_a_generator_that_fails_costs_its_images(drawing):
    """fails when an exception of `render` ends an answer, spoils the images of other rows, or its caption is lost"""
    whole = drawn_together(drawing, ROWS, OPTIONS, Numbered())
    captions = [one.caption for drawn in whole.drawn for one in drawn]
    broken = max(captions, key=lambda one: len(one.split())).split()[-1]
    together = drawn_together(drawing, ROWS, OPTIONS, Numbered(broken))
    assert together.answers == [drawn_again(drawing, row, OPTIONS, broken) for row in ROWS]
    drawn = [one for row in together.drawn for one in row]
    assert {fails(one.caption, broken) for one in drawn} == {True, False}
    for one in drawn:
        assert (one.image is None) == fails(one.caption, broken)
        assert one.problem == ("RuntimeError: no paint" if one.image is None else None)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (StopIteration(), "StopIteration"),
        (RenderStopped(), "RenderStopped"),  # though nobody watches who could have asked for it
        (RenderError("the memory\nis full"), "the memory is full"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(error, shown):
    """fails when a note about an image has several lines, or ends with a colon and nothing"""

    def render(*given: Any) -> Any:
        raise error

    generator: Any = SimpleNamespace(render=render)
    (drawn,) = Artist(generator).draw(["a cat"], [1])
    assert drawn.problem == shown


def test_without_a_generator_captions_stay(drawing):
    """fails when captions are taken back without an image"""
    together = drawn_together(drawing, ROWS, OPTIONS, None)
    plain = drawing.generate(together._batch, OPTIONS)
    assert together.answers == plain and any(together.drawn)
    assert all(one.problem and "no generator" in one.problem for drawn in together.drawn for one in drawn)


def test_captions_that_end_together_are_rendered_together(drawing):
    """fails when rows wait for each other's images, or the seeds of images are not those of their rows"""
    generator = Numbered()
    seeded = [replace(OPTIONS, seed=row) for row in (4, 4)]
    given: list[Any] = []
    render = generator.render
    generator.render = lambda captions, seeds: (given.append((list(captions), list(seeds))), render(captions, seeds))[1]
    together = drawn_together(drawing, (ROWS[0], ROWS[0]), seeded, generator)
    first = together.drawn[0][0].caption
    assert given[0] == ([first] * 2, [drawing_seed(4, 0)] * 2)
    assert [seeds for _, seeds in given] == [[drawing_seed(4, k)] * 2 for k in range(len(together.drawn[0]))]


@pytest.mark.parametrize("most", [0, 1])
def test_an_answer_has_at_most_so_many_drawings(drawing, most):
    """fails when max_drawings does not count per answer, ends the answer, or leaves sampling without any token"""
    few = drawn_together(drawing, ROWS, replace(OPTIONS, max_drawings=most), Numbered())
    assert max(len(drawn) for drawn in few.drawn) == most and min(map(len, few.answers)) == OPTIONS.max_new_tokens
    assert all(answer.count(OPENING) <= 1 for answer in few.answers)
    likeliest = replace(OPTIONS, max_drawings=most, sample=True, top_k=1, seed=1)  # of the tokens that are allowed
    assert drawn_together(drawing, ROWS, likeliest, Numbered()).answers == few.answers
    both = [replace(OPTIONS, max_drawings=1), OPTIONS]
    with pytest.raises(ValueError, match="different max_drawings"):
        drawn_together(drawing, ROWS[:2], both, Numbered())


def test_sampled_answers_depend_on_their_seed_alone(drawing):
    """fails when sampling with temperature and top_p differs between a batch and single prompts"""
    options = [
        GenerateOptions(max_new_tokens=16, sample=True, temperature=0.8, top_p=0.9, seed=seed) for seed in range(4)
    ]
    together = drawn_together(drawing, ROWS, options, Numbered())
    alone = [drawn_together(drawing, [row], one, Numbered()) for row, one in zip(ROWS, options, strict=True)]
    assert together.answers == [one.answers[0] for one in alone] and any(together.drawn)


@pytest.mark.parametrize("room", [4, 7, 10])
def test_a_full_context_ends_one_answer_and_not_the_others(drawing, monkeypatch, room):
    """fails when a token or an image gets a position beyond the context, or a row ends because another one is full"""
    rows = (ROWS[0], ROWS[2])
    free = drawn_together(drawing, rows, OPTIONS, Numbered())
    monkeypatch.setattr(type(drawing.language), "max_positions", len(ROWS[0]) + room)
    read: list[int] = []
    forward = type(drawing.language).forward

    def reading(self: Any, embeds: Any, positions: Any, *others: Any, **named: Any) -> Any:
        read.append(int(positions.max()))
        return forward(self, embeds, positions, *others, **named)

    monkeypatch.setattr(type(drawing.language), "forward", reading)
    full = drawn_together(drawing, rows, OPTIONS, Numbered())
    assert full.is_full[0] and max(read) < len(ROWS[0]) + room
    for one, other in zip(full.answers, free.answers, strict=True):
        assert other[: len(one)] == one
    assert len(full.answers[1]) > len(full.answers[0])


def test_marks_that_open_or_close_nothing_are_dropped():
    """fails when a closing mark outside a caption, or an opening one inside, is shown or divides a caption"""
    layout = drawing_layout(tiny_model())
    parts = layout.parts([7, CLOSING, 8, OPENING, 5, OPENING, 6, CLOSING, 9, CLOSING, OPENING])
    assert parts == (Text("7 8"), Drawing("5 6"), Text("9"))
