"""Side texts in a sequence: their positions, what they belong to, what predicts them, and how cutting treats them."""

from __future__ import annotations

import pytest

from chatbridge.conversation.fitting import Limit, fit
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Drawing, Message, Text, assistant, user
from chatbridge.conversation.spans import BranchSpan, MediaSpan, Span, SpanWriter, TextSpan
from chatbridge.conversation.templates.base import Template
from chatbridge.conversation.token_sequence import MediaSlot, TokenSegment
from tests.parity.toy_tokenizers import WordTokenizer

START, END = 90, 91


class Drawer(Template):
    """Text, then for a drawing its caption as a side text and the image in the base."""

    can_draw = True
    stops = ("\n",)

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        for out.turn, message in enumerate(conversation):
            for part in message.parts:
                if isinstance(part, Drawing):
                    out.drawing(part, message.is_supervised, (START,), (END,))
                elif isinstance(part, Text):
                    out.words(part.text, message.is_supervised)


CHAT = (user("go"), assistant("so", Drawing("oak", "a.png"), Drawing("fox", "b.png"), "end"))


WORDS = WordTokenizer(["go", "so", "oak", "fox", "end", "more"])
GO, SO, OAK, FOX, LAST, _ = range(3, 9)


def layout(max_tokens: int | None = None) -> Layout:
    return Layout(Drawer(Drawer.Config()), WORDS, {"image": 2}, max_tokens)


def test_a_side_text_counts_on_from_its_anchor_and_the_base_does_not_count_it() -> None:
    """fails when a side text moves the positions of the base, or starts elsewhere than the image it stands before"""
    row = layout().training_sequence(CHAT)
    assert row.ids == [1, GO, SO, START, OAK, END, 2, 2, START, FOX, END, 2, 2, LAST]
    assert row.positions == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 5, 6, 7]
    first, second, base = TokenSegment(0, 1, 3), TokenSegment(0, 2, 8), TokenSegment()
    assert row.segments == [base] * 3 + [first] * 3 + [base] * 2 + [second] * 3 + [base] * 3
    assert row.media_slots == [MediaSlot("image", 0, 6, 2), MediaSlot("image", 1, 11, 2)]


def test_the_base_before_a_side_text_predicts_its_first_token() -> None:
    """fails when a token is predicted by one it does not follow: of another side text, or across one"""
    row = layout().training_sequence(CHAT)
    points = [(row.ids[at], target) for at, target in zip(row.predict_at, row.target, strict=True)]
    assert points == [
        (GO, SO), (SO, START), (START, OAK), (OAK, END), (2, START), (START, FOX), (FOX, END), (2, LAST),
    ]  # fmt: skip
    assert row.predict_at == [1, 2, 3, 4, 7, 8, 9, 12]
    assert row.supervised() == {2, 3, 4, 5, 8, 9, 10, 13}


def test_two_side_texts_at_one_position() -> None:
    """fails when the second of two side texts continues the first, or text after both continues one of them"""
    spans: list[Span] = [
        TextSpan((5, 6), False),
        BranchSpan((7, 8), True),
        BranchSpan((9,), True),
        TextSpan((4,), True),
    ]
    row = layout()._sequence_of(spans)
    assert row.positions == [0, 1, 2, 3, 4, 3, 3]
    assert [segment.branch for segment in row.segments or ()] == [0, 0, 0, 1, 1, 2, 0]
    assert list(zip(row.predict_at, row.target, strict=True)) == [(2, 7), (3, 8), (2, 9), (2, 4)]


def test_a_side_text_that_nothing_precedes() -> None:
    """fails when the first token of a sequence is predicted by the last one"""

    class NoBos(WordTokenizer):
        bos_id = None  # pyright: ignore[reportAssignmentType]

    spans: list[Span] = [BranchSpan((7, 8), True), TextSpan((4, 5), True)]
    row = Layout(Drawer(Drawer.Config()), NoBos([]), {})._sequence_of(spans)
    assert list(zip(row.predict_at, row.target, strict=True)) == [(0, 8), (2, 5)]
    assert row.positions == [0, 1, 0, 1]


def test_prompts_have_no_side_texts() -> None:
    """fails when the caption of an image of an earlier turn takes memory in a prompt that cannot see it"""
    prompt = layout().prompt((*CHAT, user("more")))
    assert (prompt.segments, prompt.positions) == (None, list(range(len(prompt))))
    assert START not in prompt.ids and len(prompt.media_slots) == 2


def test_cutting_keeps_a_side_text_whole_and_with_its_anchor() -> None:
    """fails when a sequence that is too long keeps half a caption, or a caption whose text before it was cut"""
    spans: list[Span] = [TextSpan((3,), False, 0), TextSpan((4, 5, 6), True, 1), BranchSpan((7, 8, 9), True, 1)]
    spans += [TextSpan((10, 11), True, 1), TextSpan((12, 13), True, 1)]
    for limit in range(2, 12):
        kept = fit(spans, Limit(limit))
        assert sum(span.length for span in kept) <= limit
        if any(isinstance(span, BranchSpan) for span in kept):
            assert kept[:3] == spans[:3], limit
    assert [span.length for span in fit(spans, Limit(7))] == [1, 3, 3]
    assert [span.length for span in fit(spans, Limit(6))] == [1, 3]
    assert [span.length for span in fit(spans, Limit(3))] == [1, 2]


def test_a_turn_that_ends_with_an_image_keeps_it() -> None:
    """fails when the turns that fit end with a caption whose image was dropped"""
    drawn: list[Span] = [TextSpan((3,), False, 0), TextSpan((4,), True, 1), BranchSpan((7, 8), True, 1, 0)]
    drawn.append(MediaSpan("image", 0, 2, 1))
    spans = [*drawn, TextSpan((5,), False, 2), TextSpan((6, 6), True, 3)]
    assert fit(spans, Limit(8)) == drawn


def test_a_caption_alone_is_supervised() -> None:
    """fails when an answer that is an image and nothing else is refused as empty, or its caption is not supervised"""
    row = layout().training_sequence((user("go"), Message("assistant", (Drawing("oak", "a.png"),))))
    assert row.target == [START, OAK, END]
    with pytest.raises(ValueError, match="no token of this conversation is supervised"):
        layout().training_sequence((user("go"), Message("assistant", (Drawing("oak", "a.png"),), supervised=False)))
