"""Answers as completions and as chunks."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.conversation.messages import Drawing, Part, Text
from chatbridge.serve.answer import Answer
from chatbridge.serve.openai_api.answer_json import Delta, content_of, finish_of, usage_json
from chatbridge.serve.request import TokenLogprob, Usage
from tests.helpers.scripted_backend import ScriptedBackend

IMAGE = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)


def sent(answers: Sequence[Answer]) -> list[dict]:
    delta = Delta(0)
    return [choice for answer in answers for choice in delta.choices(answer)]


def test_chunks_make_up_the_answer_whatever_states_are_missed():
    """Fails when text is lost or repeated because a slow reader missed states of the answer."""
    rng = random.Random(0)
    for _ in range(50):
        text = "".join(rng.choice("ab \n") for _ in range(20)).strip()
        states = [Answer((Text(text[:at]),) if text[:at] else ()) for at in range(20) if rng.random() < 0.5]
        choices = sent([*states, Answer((Text(text),) if text else (), is_done=True)])
        assert "".join(one["delta"].get("content") or "" for one in choices) == text
        assert [one["finish_reason"] for one in choices] == [None] * (len(choices) - 1) + ["stop"]
        assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}


def test_blanks_that_belong_to_a_stop_string_are_not_sent():
    """Fails when a client receives blanks before a stop string that the complete answer lacks."""
    choices = sent([Answer((Text("red \n"),)), Answer((Text("red"),), is_done=True)])
    assert "".join(one["delta"].get("content") or "" for one in choices) == "red"


def test_log_probabilities_are_sent_once_each():
    """Fails when tokens are missing from the chunks, or come twice."""
    tokens = tuple(TokenLogprob(at, "é"[at:], -0.5 * at, ((7, "x", -0.1),)) for at in range(3))
    states = [Answer((Text("a b"[: at + 1]),), logprobs=tokens[: at + 1]) for at in range(2)]
    choices = sent([*states, Answer((Text("a"),), is_done=True, logprobs=tokens)])
    found = [token for one in choices if one["logprobs"] for token in one["logprobs"]["content"]]
    assert [one["logprob"] for one in found] == [0, -0.5, -1.0]
    assert found[0]["bytes"] == list("é".encode()) and found[0]["top_logprobs"][0]["token"] == "x"


def drawn() -> tuple[Part, ...]:
    return (Text("see "), Drawing("a circle", IMAGE), Text(" and "), Drawing("nothing"))


def test_drawn_images_are_parts_with_their_pixels():
    """Fails when the images of an answer are lost, moved, or changed by their encoding."""
    text, image, _, lost = content_of(drawn())
    assert text == {"type": "text", "text": "see "} and lost["text"] == "[drawing: nothing]"
    assert image["caption"] == "a circle"
    pixels = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pixels))), IMAGE.permute(1, 2, 0).numpy())


def test_a_stream_has_drawn_images_at_their_place():
    """Fails when a drawn image is sent twice, not at all, or before the text in front of it."""
    answers = list(ScriptedBackend(*drawn())._stream(lambda: False))
    deltas = [one["delta"] for one in sent(answers)]
    assert "".join(one.get("content") or "" for one in deltas) == "see  and "
    kinds = ["image" if "images" in one else "text" for one in deltas if one.get("images") or one.get("content")]
    assert kinds == ["text", "image", "text", "image"] or kinds == ["text", "text", "image", "text", "text", "image"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer((), is_done=True), "stop"),
        (Answer((), is_done=True, is_cut=True), "length"),
        (Answer((), is_done=True, finish="time"), "length"),
    ],
)
def test_the_reason_of_the_end(answer, reason):
    """Fails when a client cannot tell a cut answer from a complete one."""
    assert finish_of(answer) == reason


def test_the_prompt_of_several_choices_counts_once():
    """Fails when a request with n choices reports its prompt n times."""
    found = usage_json([Usage(prompt=10, cached=4, answer=2), Usage(prompt=10, cached=10, answer=3)])
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (10, 5, 15)
    assert found["prompt_tokens_details"]["cached_tokens"] == 4
