"""Where the files of a question go."""

from __future__ import annotations

from chatbridge.conversation.messages import Media, Text
from chatbridge.conversation.question_form import QuestionForm


def test_files_are_placed_as_the_form_says():
    """fails when files and text swap places, the separator is on the wrong side, or text without files gets one"""
    dog, cat = Media("image", "dog.jpg"), Media("image", "cat.jpg")
    after = QuestionForm(media="after_text", separator="\n")
    assert after.message([dog, cat], "Who?").parts == (Text("Who?\n"), dog, cat)
    assert QuestionForm(separator=" ").message([dog], "Who?").parts == (dog, Text(" Who?"))
    assert QuestionForm().message([dog], "Who?").parts == (dog, Text("Who?"))
    assert after.message([], "Who?").parts == (Text("Who?"),)
