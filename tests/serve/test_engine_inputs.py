"""What the chat engine gives the model: the prompt, the room for an answer, the options, the images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chatbridge.conversation.messages import Message, Text, assistant, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.request import RequestSettings
from chatbridge.serve.scheduler.requests import Finished, Request


@pytest.fixture
def generations(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, GenerateOptions]]:
    """Batch and options of every generation."""
    calls: list[tuple[Any, GenerateOptions]] = []

    def submit(request: Request) -> None:
        calls.append((request.batch, request.options))
        request.events.put(Finished(()))

    monkeypatch.setattr(engine.scheduler, "submit", submit)
    monkeypatch.setattr(engine.scheduler, "cancel", lambda *given: None)
    return calls


def limited(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(type(engine.model.language), "max_positions", property(lambda self: limit))


def test_a_system_message_stays_when_rounds_are_left_out(engine, generations, monkeypatch):
    """fails when messages before the first question are left out with rounds that do not fit"""
    system, last = Message("system", (Text("red or blue"),)), user("what color is it ?")
    kept = engine.layout.prompt((system, last)).ids
    limited(engine, monkeypatch, len(kept) + 10)
    engine.answer((system, user("what is left ? " * 4), assistant("green"), last), GenerateOptions(max_new_tokens=10))
    assert generations[0][0].ids[0].tolist() == kept


def test_an_answer_ends_at_the_context_length(engine, generations, monkeypatch):
    """fails when max_new_tokens exceeds the positions left in the context of the language model"""
    turns = (user("what color is it ?"),)
    size = len(engine.layout.prompt(turns))
    limited(engine, monkeypatch, size + 70)
    engine.answer(turns, GenerateOptions(max_new_tokens=300))
    engine.answer(turns, GenerateOptions(max_new_tokens=20))
    assert [options.max_new_tokens for _, options in generations] == [70, 20]


def test_every_option_reaches_the_model(engine, generations):
    """fails when an option of the caller is replaced by its default"""
    wanted = GenerateOptions(max_new_tokens=9, sample=True, temperature=0.7, top_p=0.8, repetition_penalty=1.2, seed=3)
    engine.answer((user("what color is it ?"),), wanted)
    assert generations[0][1] == wanted


def test_images_are_preprocessed_as_in_an_evaluation(engine, generations, world):
    """fails when a chat uses the random crop or the uint8 pixels of training"""
    media = engine.attach(world.files["image"]).media
    engine.answer((user(*media, "what color is it ?"),), GenerateOptions(max_new_tokens=1))
    expected = engine.model.processors(train=False)["image"](world.files["image"])
    torch.testing.assert_close(generations[0][0].media["image"][0], expected)


def test_a_stop_string_of_a_request_ends_its_answer(engine):
    """fails when the answer goes on after a stop string, contains it, shows its beginning, or other requests have it"""
    question, long = (user("what color is it ?"),), GenerateOptions(max_new_tokens=30)
    whole = engine.answer(question, long).text
    stop = whole[len(whole) // 2 :][:3]
    *grown, stopped = engine.stream(question, long, settings=RequestSettings(stop=(stop,)))
    assert stop.strip() and stopped.text == whole[: whole.index(stop)].strip() and not stopped.is_cut
    assert all(stopped.text.startswith(one.text) for one in grown)
    assert engine.answer(question, long).text == whole
