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


def test_numbers_in_the_text_are_the_places_of_files():
    """fails when a numbered file is not in its place, is there twice, or a number without a file is lost"""
    one, two, three = (Media("image", name) for name in ("1.png", "2.png", "3.png"))
    form = QuestionForm(numbered=True)
    assert form.message([one, two], "Is [2] older than [1]?").parts == (
        Text("Is "), two, Text(" older than "), one, Text("?")
    )  # fmt: skip
    assert form.message([one, two, three], "[2][3]").parts == (one, two, three)
    assert form.message([one], "[1] and [1], [2]").parts == (one, Text(" and [1], [2]"))
    assert form.message([one, two], "What?").parts == (one, two, Text("What?"))
    assert form.message([one, two], "[2]").parts == (one, two)
    assert form.message([], "see [1]").parts == (Text("see [1]"),)
    assert form.message([one], "").parts == (one, Text(""))
    after = QuestionForm(numbered=True, media="after_text", separator="\n")
    assert after.message([one, two], "Is it [1]?").parts == (Text("Is it "), one, Text("?"), Text("\n"), two)
    assert QuestionForm().message([one], "see [1]").parts == (one, Text("see [1]"))
