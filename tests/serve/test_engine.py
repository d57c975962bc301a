"""The chat engine: streamed answers, the KV caches of conversations, the context length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest

import pytest
import torch

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Media, Text, assistant, user
from chatbridge.serve.answer import partial_parts
from chatbridge.serve.context_length import NoAnswer
from chatbridge.serve.engine import ChatEngine
from tests.helpers.serve_parts import SHORT, color_question


def test_a_streamed_answer_equals_plain_generation(engine, world):
    """fails when streaming loses, repeats or reorders text, or ends at another token than plain generation"""
    conversation = color_question(engine, world, "image")
    steps = list(engine.stream(conversation, SHORT))
    (ids,) = engine.model.generate(engine.prompts([conversation]), SHORT, engine.layout.stops)
    assert steps[-1].text == engine.layout.finish(ids) and len(ids) == 10
    assert [step.is_done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len(steps) > 4 and all(later.text.startswith(step.text) for step, later in zip(steps, steps[1:]))


def test_a_video_with_an_audio_track_is_two_media_items(engine, world, prompts):
    """fails when the model does not get the audio track, or media slots of another item are used"""
    engine.answer(color_question(engine, world, "image", "video"), SHORT)
    (batch,) = prompts
    assert {name: tuple(media.shape) for name, media in batch.media.items()} == {
        "image": (1, 3, 28, 28), "video": (1, 2, 3, 28, 28), "audio": (1, 1, 32, 32),
    }  # fmt: skip
    starts = [int(batch.media_slots[name][0, 0]) for name in ("image", "video", "audio")]
    assert starts == sorted(starts)
    torch.testing.assert_close(batch.media["image"][0], engine.processors["image"](world.files["image"]))


def test_closing_the_iterator_stops_the_generation(engine, world):
    """fails when closing the iterator returns before the generation has ended, or keeps the place of its question"""
    steps = []
    hook = engine.model.language.register_forward_pre_hook(lambda *given: steps.append(1))
    stream = engine.stream(color_question(engine, world, "image"), replace(SHORT, max_new_tokens=400))
    first = next(stream)
    stream.close()
    before = len(steps)
    assert not first.is_done and before < 300 and engine.scheduler.num_running == 0
    time.sleep(0.05)
    hook.remove()
    assert len(steps) == before
    (rest,) = [step for step in engine.stream(color_question(engine, world, "image"), SHORT) if step.is_done]
    assert rest.text == engine.answer(color_question(engine, world, "image"), SHORT).text


@pytest.fixture
def read(engine: ChatEngine) -> Iterator[list[int]]:
    """Number of positions in each forward pass of the language model."""
    passes: list[int] = []
    hook = engine.model.language.register_forward_pre_hook(lambda module, given: passes.append(given[0].shape[1]))
    yield passes
    hook.remove()


def test_a_following_question_reads_only_new_tokens(engine, world, read):
    """fails when a following question reads the conversation again, or its answer differs from an empty cache's"""
    first = color_question(engine, world, "image", "audio")
    reported = engine.answer(first, SHORT).text
    second = (*first, assistant(reported), user("and the tone ?", *engine.attach(world.files["video"]).media))
    read.clear()
    kept = engine.answer(second, SHORT).text
    num_new, num_all = read[0], len(engine.layout.prompt(second))
    assert num_new < num_all - len(engine.layout.prompt(first)) + 2 and read[1:] == [1] * (len(read) - 1)
    engine.prompt_cache.forget()
    read.clear()
    assert engine.answer(second, SHORT).text == kept and read[0] == num_all


def test_another_conversation_does_not_reuse_the_cache(engine, world, read):
    """fails when another image, or an answer that was never generated, is taken from the KV cache of the old ones"""
    first = color_question(engine, world, "image")
    reported = engine.answer(first, SHORT).text
    (image,) = first[0].media
    other = replace(image, ref=replace(image.ref, tensor=image.ref.tensor + 1.0))
    changed = (user(other, "what color is it ?"),)
    read.clear()
    found = engine.answer(changed, SHORT).text
    is_read_again = read[0]
    engine.prompt_cache.forget()
    assert engine.answer(changed, SHORT).text == found and is_read_again > engine.layout.media_lengths["image"]
    put_in = (*first, assistant("green " + reported), user("why ?"))
    found = engine.answer(put_in, SHORT).text
    engine.prompt_cache.forget()
    assert engine.answer(put_in, SHORT).text == found


def test_streams_alternate(engine, world):
    """fails when a stream that is not consumed blocks others, or two interleaved streams mix their text"""
    one, other = color_question(engine, world, "image"), color_question(engine, world, "audio")
    alone = [engine.answer(conversation, SHORT).text for conversation in (one, other)]
    streams = [engine.stream(one, SHORT), engine.stream(other, SHORT)]
    next(streams[0])
    assert engine.answer(other, SHORT).text == alone[1]
    last = ["", ""]
    for steps in zip_longest(*streams):
        last = [text if step is None else step.text for text, step in zip(last, steps, strict=True)]
    assert last == alone


def test_an_error_of_the_model_reaches_the_caller(engine, world, monkeypatch):
    """fails when an error of the model is lost and the page waits forever"""

    def broken(*given):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine.model, "embedded", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.answer(color_question(engine, world, "image"), SHORT)


def test_the_beginning_of_a_stop_string_is_withheld(engine):
    """fails when "##" of a stop string "###", or half a character, appears in a partial answer"""
    encode = engine.layout.tokenizer.encode
    assert partial_parts(engine.layout, encode("red ##")) == (Text("red"),)
    assert partial_parts(engine.layout, encode("red ### Human")) == (Text("red"),)
    assert partial_parts(engine.layout, encode("red")) == (Text("red"),)
    assert partial_parts(engine.layout, encode("red é")[:-1]) == (Text("red "),)


def test_earlier_rounds_beyond_the_context_length_are_left_out(engine, world, prompts, monkeypatch):
    """fails when a long chat raises, loses its last question, or drops rounds without a note"""
    first, last = color_question(engine, world, "image")[0], user("what color is it ?")
    conversation = (first, assistant("red"), user("left ?"), assistant("no"), last)
    room = len(engine.layout.prompt((last,))) + 10
    monkeypatch.setattr(type(engine.model.language), "max_positions", property(lambda self: room))
    answer = engine.answer(conversation, SHORT)
    assert answer.notes == (
        "the first 2 questions and their answers no longer fit into the model's context length and were left out",
    )
    assert not prompts[0].media and len(prompts[0].ids[0]) == room - 10
    message = rf"prompt needs \d+ tokens and its answer 10, the model's context length is {room}; shorten"
    with pytest.raises(NoAnswer, match=message):
        engine.stream((user("color " * 100),), SHORT)
    with pytest.raises(NoAnswer, match="no question"):
        engine.stream((), SHORT)


def test_media_without_a_route_are_refused(engine):
    """fails when a modality without a route ends in an error within the model"""
    with pytest.raises(MediaError, match="cannot process smell; it accepts image, video, audio"):
        engine.stream((user(Media("smell", "x"), "?"),), SHORT)


def test_concurrent_questions_get_their_own_answers(engine, world):
    """fails when questions of several threads mix up their media or text"""
    names = ["image", "video", "audio"] * 4
    alone = {name: engine.reply([world.files[name], f"what {name} ?"], SHORT) for name in set(names)}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda name: engine.reply([world.files[name], f"what {name} ?"], SHORT), names))
    assert found == [alone[name] for name in names]
