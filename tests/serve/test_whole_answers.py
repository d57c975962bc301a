"""Requests that need the complete answer only."""

from __future__ import annotations

import pytest

from chatbridge.conversation.messages import user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.request import RequestSettings

OPTIONS = GenerateOptions(max_new_tokens=12, min_new_tokens=12)
QUESTION = (user("what color is it ?"),)


@pytest.mark.parametrize("top_logprobs", [None, 2])
def test_the_answer_is_the_same(engine: ChatEngine, top_logprobs: int | None):
    """fails when tokens, log-probabilities, counts or times of tokens are lost that the caller was not told of"""
    *grown, whole = engine.stream(QUESTION, OPTIONS, settings=RequestSettings(top_logprobs=top_logprobs))
    settings = RequestSettings(top_logprobs=top_logprobs, is_whole=True)
    *before, alone = engine.stream(QUESTION, OPTIONS, settings=settings)
    assert (len(before) <= 1) < len(grown)
    assert (alone.parts, alone.finish, alone.notes) == (whole.parts, whole.finish, whole.notes)
    assert (alone.num_tokens, alone.usage.answer) == (12, 12)
    assert [(one.id, one.text) for one in alone.logprobs] == [(one.id, one.text) for one in whole.logprobs]
    assert len(alone.logprobs) == (12 if top_logprobs else 0)
    assert alone.timing.first_token_s is not None
    assert alone.timing.first_token_s < alone.timing.total_s


def test_no_token_but_the_first_wakes_the_caller(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch):
    """fails when every token wakes the thread of a request that waits for the whole answer"""
    from chatbridge.serve import growing_answer

    told: list[int] = []
    grow = growing_answer.GrowingAnswer.grow
    monkeypatch.setattr(growing_answer.GrowingAnswer, "grow", lambda self, event: (told.append(1), grow(self, event)))
    assert engine.answer(QUESTION, OPTIONS).num_tokens == 12
    assert len(told) == 1
