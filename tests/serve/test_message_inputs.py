"""Inputs of `reply`: text, files, images, arrays, waveforms, messages, generation settings."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Media, Message, Text, assistant, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.context_length import NoAnswer
from chatbridge.serve.session import ask
from tests.helpers.serve_parts import SHORT


@pytest.mark.parametrize("turn", ["", "   ", [], [""], [user()], [assistant("hi")], [Message("system", (Text("x"),))]])
def test_a_turn_without_a_question_has_no_answer(engine, turn):
    """fails when an answer is generated without a question"""
    with pytest.raises(NoAnswer, match=r"question"):
        engine.reply(turn)


def test_images_in_memory_are_media(engine, world, prompts):
    """fails when a PIL image, an array or a tensor is ignored, or differs from the image of its file"""
    file = Image.open(world.files["image"])
    pixels = np.asarray(file.convert("RGB"))
    given = [file, pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1), pixels.astype(np.float32) / 255]
    given += [np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])]  # opaque
    for one in given:
        engine.reply([one, "what color ?"], SHORT)
        torch.testing.assert_close(prompts[-1].media["image"][0], engine.processors["image"](world.files["image"]))
    engine.reply(file.convert("L"), SHORT)
    grey = prompts[-1].media["image"][0]
    engine.reply(np.asarray(file.convert("L")), SHORT)
    torch.testing.assert_close(prompts[-1].media["image"][0], grey)
    engine.reply([np.stack([pixels] * 3), "what happens ?"], SHORT)
    assert tuple(prompts[-1].media["video"].shape) == (1, 2, 3, 28, 28) and "image" not in prompts[-1].media


def test_waveforms_with_their_rate_are_media(engine, world, prompts):
    """fails when a waveform is not resampled to the rate of the encoder, or one of its forms is refused"""
    samples, rate = soundfile.read(world.files["audio"], dtype="int16")
    assert rate == engine.processors["audio"].rate_hz
    wave = samples.astype(np.float32) / 32768
    both = np.stack([wave, wave], 1)  # [samples, channels]
    engine.reply([world.files["audio"], "what ?"], SHORT)
    wanted = prompts[-1].media["audio"]
    for one in ((wave, rate), {"array": wave, "sampling_rate": rate}, (samples, rate), (both, rate)):
        engine.reply([one, "what ?"], SHORT)
        torch.testing.assert_close(prompts[-1].media["audio"], wanted)
    engine.reply((np.repeat(wave, 2), 2 * rate), SHORT)
    assert prompts[-1].media["audio"].shape == wanted.shape


@pytest.mark.parametrize(
    ("item", "kind", "reason"),
    [
        (7, TypeError, "reply accepts text (str), a file (pathlib.Path), a PIL image, an array"),
        (b"abc", TypeError, "found bytes; for the bytes of a file write Media('image', data)"),
        ({"a": 1}, TypeError, "found dict"),
        (np.zeros(16000, np.float32), TypeError, "and needs its rate: write (array, rate_hz)"),
        (np.zeros((8, 8, 3), np.int64), MediaError, "expected uint8, or float in 0..1"),
        (np.full((8, 8, 3), 200.0), MediaError, "float pixels must be in 0..1"),
        (np.zeros((8, 9, 5), np.uint8), MediaError, "no axis of 1, 3 or 4 channels"),
        (np.zeros((0, 9, 3), np.uint8), MediaError, "neither an image"),
        (np.array(["x"]), TypeError, "not an image, video or audio; use uint8"),
        (Media("image", 7), TypeError, "accepts a path, the bytes of a file, or a tensor, found int"),
        ((np.zeros(16000, np.float32), -1), TypeError, "samples per second, found -1"),
        ((np.zeros((40, 40), np.float32), 8000), MediaError, "[samples] or [channels, samples], found 40x40"),
        (
            {"array": [[0.0, 0.1], [0.0]], "sampling_rate": 8000},
            MediaError,
            "one such list of equal length per channel",
        ),
        (torch.zeros(3, 8, 8, device="meta"), TypeError, "a tensor on the meta device has no values"),
        (Text(3), TypeError, "the text of Text must be a str, found int"),
        (Media("imag", b""), MediaError, "did you mean image?"),
    ],
)
def test_unsupported_inputs_are_named(engine, item, kind, reason):
    """fails when an unsupported input is ignored and an answer is generated without it"""
    with pytest.raises(kind, match=re.escape(reason)):
        engine.reply([item, "what is it ?"], SHORT)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message("user", "hi"), "a tuple of Text, Media and Drawing, found str"),
        (Message("user", ("hi",)), "a tuple of Text, Media and Drawing, found str"),
        (Message("usr", (Text("hi"),)), "the role of a message must be one of system, user, assistant; found 'usr'"),
    ],
)
def test_invalid_messages_are_refused(engine, message, reason):
    """fails when text in a wrong place is reported as a missing question"""
    with pytest.raises(TypeError, match=re.escape(reason)):
        engine.reply([message], SHORT)


def test_a_closed_image_is_refused_and_a_sparse_one_is_read(engine):
    """fails when an unusual image object ends in an error of Pillow or torch"""
    image = Image.new("RGB", (8, 8))
    image.close()
    with pytest.raises(MediaError, match="a PIL image of mode RGB cannot be read"):
        engine.reply([image, "what is it ?"], SHORT)
    dense = torch.zeros(3, 8, 8)
    dense[0, 2, 2] = 1.0
    assert engine.reply([dense.to_sparse(), "what is it ?"], SHORT) == engine.reply([dense, "what is it ?"], SHORT)


def test_media_beyond_the_context_length_are_not_decoded(engine, world, monkeypatch):
    """fails when files that cannot fit into one prompt are decoded before the error"""
    monkeypatch.setattr(engine.reader, "attach", lambda path: pytest.fail("was decoded"))
    with pytest.raises(NoAnswer, match="500 media items need at least"):
        engine.reply([world.files["image"]] * 500, SHORT)


def test_messages_and_parts_do_not_mix(engine):
    """fails when a list of messages and parts loses one of them"""
    with pytest.raises(TypeError, match="not both in one list"):
        engine.reply([user("what ?"), "what ?"])


@pytest.mark.parametrize(
    ("settings", "kind", "reason"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens is 0, expected a value of at least 1"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens is 2.5, expected a whole number"),
        ({"max_new_tokens": "5"}, TypeError, "max_new_tokens is '5', expected a whole number"),
        (
            {"sample": True, "temperature": 0.0},
            ValueError,
            "temperature is 0.0, expected a value from 0.01 to 100; for",
        ),
        ({"sample": True, "temperature": float("inf")}, ValueError, "temperature is inf, expected a value from 0.01"),
        ({"num_beams": 10**6}, ValueError, "num_beams is 1000000, expected a value from 1 to 64"),
        ({"seed": 2**70}, ValueError, "seed is 1180591620717411303424, expected a value from 0 to"),
        ({"repetition_penalty": float("inf")}, ValueError, "repetition_penalty is inf, expected a value from 0.01"),
        ({"length_penalty": float("-inf")}, ValueError, "length_penalty is -inf, expected a value from -100"),
        ({"top_p": 1.5}, ValueError, "top_p is 1.5"),
        ({"top_p": float("nan")}, ValueError, "top_p is not a number"),
        ({"sample": 1}, TypeError, "sample is 1, expected True or False"),
        ({"min_new_tokens": 300}, ValueError, "min_new_tokens is 300, above max_new_tokens"),
        ({"max_new_token": 5}, TypeError, "no setting 'max_new_token'; did you mean max_new_tokens? settings: max_new"),
        ({"beams": 5}, TypeError, "no setting 'beams'"),
    ],
)
def test_settings_of_an_answer_are_checked(engine, settings, kind, reason):
    """fails when an invalid setting raises an error of a library, or is ignored"""
    ways = [lambda: engine.reply("what ?", **settings), lambda: engine.reply("what ?", settings)]
    ways += [lambda: engine.reply("what ?", SHORT, **settings), lambda: GenerateOptions(**settings)]
    for way in ways:
        with pytest.raises(kind, match=re.escape(reason)):
            way()
    with pytest.raises(TypeError, match="options are GenerateOptions or a mapping of its settings, found int"):
        engine.reply("what ?", 5)


def test_settings_may_be_given_by_name(engine, world):
    """fails when a single setting needs an object, NumPy numbers are refused, or settings have no effect"""
    turn = [world.files["image"], "what color ?"]
    assert engine.reply(turn, max_new_tokens=np.int64(10)) == engine.reply(turn, SHORT)
    assert engine.reply(turn, {"max_new_tokens": 4}) == engine.reply(turn, SHORT, max_new_tokens=4)


@pytest.mark.parametrize("text", ["what \ud83d color ?", "\ude00", "what \ud83d\ude00 ?"])
def test_a_lone_surrogate_is_replaced(engine, world, text):
    """fails when a lone half of a UTF-16 pair raises, in a turn, a conversation or a chat"""
    answer = engine.reply([world.files["image"], text], SHORT)
    assert answer == engine.reply([user(*engine.attach(world.files["image"]).media, text)], SHORT)
    *_, session = ask(engine, (), text, [world.files["image"]], SHORT)
    assert session[0].is_done and session[0].text.encode() and session[0].answer == answer
