"""The panel of what the model was given: it agrees with the prompt that the model reads."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from chatbridge.conversation.messages import Drawing, Text
from chatbridge.serve.request import Timing, Usage
from chatbridge.serve.session import ChatTurn, conversation_of
from chatbridge.serve.what_it_saw import what_it_saw


@pytest.fixture(scope="module")
def session(engine, world):
    first = ChatTurn("what <image> ?", (engine.attach(world.files["image"]),), "red", True, parts=(Text("red"),))
    usage, timing = Usage(prompt=70, cached=30, media=16, encoded=2), Timing(0.5, 0.75, 1.75)
    media = (engine.attach(world.files["video"]),)
    return first, ChatTurn(
        "and now ?", media, "up", True, parts=(Text("up"),), num_tokens=11, usage=usage, timing=timing
    )


def test_it_is_the_prompt_that_the_model_reads(engine, session):
    """fails when the panel counts other tokens than the prompt has, or loses text or media"""
    seen = what_it_saw(engine, session)
    prompt = engine.layout.prompt((*conversation_of(session[:1]), session[1].question))
    assert sum(one.num_tokens for one in seen.prompt) == len(prompt)
    assert [one.modality for one in seen.media] == ["image", "video", "audio"]
    assert [one.is_new for one in seen.media] == [False, True, True]
    assert sum(one.num_tokens for one in seen.media) == sum(length for *_, length in prompt.media_slots)
    text = seen.prompt_text
    assert text.count("<image x ") == 1 and "what <image> ?" in text and "red" in text and text.index("<video x") > 0


def test_media_are_shown_as_the_encoders_read_them(engine, session):
    """fails when a picture is missing, the chosen frames are not named, or the file is read again for every look"""
    seen = what_it_saw(engine, session)
    sizes = [Image.open(io.BytesIO(one.png or b"")).size for one in seen.media]
    assert len(sizes) == 3 and min(min(size) for size in sizes) >= 100
    assert [one.name for one in seen.media] == ["photo.jpg", "clip.mp4", "clip.mp4"]
    assert "frames " in seen.media[1].about and " of " in seen.media[1].about and "float32[" in seen.media[1].about
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.reader, "_send", lambda request: pytest.fail(f"{request.ref} is read again"))
        again = what_it_saw(engine, session)
    assert [one.png for one in again.media] == [one.png for one in seen.media]


def test_counts_are_those_of_the_answer(engine, session):
    """fails when a count of the panel is not the one of the request"""
    counts = dict(what_it_saw(engine, session).counts)
    assert counts["prompt"] == "70 tokens" and counts["read before"] == "30 tokens" and counts["answer"] == "11 tokens"
    assert (
        counts["time to first token"] == "0.75 s"
        and counts["speed"] == "10.0 tokens/s"
        and counts["waited"] == "0.50 s"
    )
    assert what_it_saw(engine, ()).media == ()
    refused = what_it_saw(engine, (*session, ChatTurn("?", problem="too long")))
    assert refused.notes == ("the model was not asked: too long",) and not refused.prompt


def test_a_file_that_is_gone_is_shown(engine, session, tmp_path):
    """fails when the panel needs a file that was removed, or a prompt that cannot be written is a traceback"""
    attached = session[0].attached[0]
    gone = replace(session[0], attached=(replace(attached, path=tmp_path / "gone.jpg"),))
    (seen,) = what_it_saw(engine, (gone,)).media
    assert seen.name == "gone.jpg" and seen.png
    drawn = replace(gone, parts=(Drawing("a cat", None),))
    assert "cannot write a drawing" in what_it_saw(engine, (drawn, ChatTurn("what ?"))).notes[0]
