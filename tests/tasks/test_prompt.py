"""The prompt of an evaluation question."""

from __future__ import annotations

import pytest

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Media, Message, Text, assistant, user
from chatbridge.tasks import question_of


def test_the_prompt_ends_before_the_last_answer():
    """fails when the prompt contains the answer, or lacks an earlier turn"""
    first, second = user(Media("image", "a.jpg"), "What?"), user("And now?")
    turns = (first, assistant("A dog."), second, assistant("A cat."))
    assert question_of(turns) == ((first, assistant("A dog."), second), "A cat.")
    with pytest.raises(MediaError, match="no answer"):
        question_of((first,))


def test_dropped_media_leave_the_rest_of_the_turn():
    """fails when an ablation also removes text or the other media item"""
    turn = user(Media("video", "v.mp4"), Media("audio", "v.wav"), "What?")
    (kept,), _ = question_of((turn, assistant("A.")), drop_media=("audio",))
    assert kept == Message("user", (Media("video", "v.mp4"), Text("What?")))
