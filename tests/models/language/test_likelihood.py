"""Likelihoods of continuations: equal to a forward pass for each, for one pass over the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chatbridge.common.types import Batch
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language import LanguageModel
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.likelihood import Likelihood, likelihoods
from tests.helpers.fused_rows import ROWS, Row, batch_of, states
from tests.helpers.gated_models import gated
from tests.helpers.tiny_languages import ATTENTION, REREAD, RUNNING, tiny_language
from tests.helpers.tiny_models import batch, tiny_model

PROMPT = [1, 9, 4, 8, 30, 7, 5]
OPTIONS = [[6], [6, 11, 12], [3, 3, 3, 3, 41], [13, 2], [6, 11, 12]]
QUICK = ("llama", "mistral", "gpt2", "gemma2", "bloom", "jamba", "rwkv")
FAMILIES = [
    pytest.param(family, marks=() if family in QUICK else pytest.mark.slow)
    for family in (*ATTENTION, *RUNNING, *REREAD)
]
TOLERANCE = 1e-5


def lively(family: str) -> LanguageModel:
    """Of larger weights, so that the likelihoods of ids differ."""
    language = tiny_language(family)
    with torch.no_grad():
        for parameter in language.parameters():
            parameter.mul_(2.0 if parameter.dim() > 1 else 1.0)
    return language


@torch.no_grad()
def brute_force(language: LanguageModel, options: Sequence[Sequence[int]]) -> list[list[float]]:
    """A forward pass over prompt and continuation for each of them."""
    found = []
    for ids in options:
        whole = torch.tensor([[*PROMPT, *ids]])
        logprobs = language.logits(language(language.embed(whole)))[0].double().log_softmax(-1)
        found.append([float(logprobs[len(PROMPT) - 1 + at, one]) for at, one in enumerate(ids)])
    return found


def assert_equal(found: Sequence[Likelihood], expected: Sequence[Sequence[float]]) -> None:
    assert [len(one.logprobs) for one in found] == [len(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert list(one.logprobs) == pytest.approx(other, abs=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_forward_pass_for_each(family: str) -> None:
    """fails when a likelihood depends on the other continuations, on padding, or on the cache of the prompt"""
    language = lively(family)
    prompt = EmbeddedPrompts(language.embed(torch.tensor([PROMPT])).detach())
    found = likelihoods(language, prompt, OPTIONS)
    assert_equal(found, brute_force(language, OPTIONS))
    assert len({round(one.total, 3) for one in found}) == 4  # they differ, the repeated one does not
    assert found == likelihoods(language, prompt, OPTIONS)


def test_reads_the_prompt_once() -> None:
    """fails when the prompt is read for each continuation, or continuations of one id are read at all"""
    language = lively("llama")
    prompt = EmbeddedPrompts(language.embed(torch.tensor([PROMPT * 20])).detach())
    shapes: list[tuple[int, ...]] = []
    language.decoder_layers[0].register_forward_pre_hook(
        lambda layer, args, kwargs: shapes.append(tuple((args[0] if args else kwargs["hidden_states"]).shape[:2])),
        with_kwargs=True,
    )
    likelihoods(language, prompt, OPTIONS)
    assert shapes == [(1, 140), (4, 4)]
    shapes.clear()
    likelihoods(language, prompt, [[3], [4], [5]])
    assert shapes == [(1, 140)]
    shapes.clear()
    many = [[3, number % 40, 7] for number in range(70)]
    assert len({row.logprobs for row in likelihoods(language, prompt, many)}) == 40
    assert shapes == [(1, 140), (32, 2), (32, 2), (6, 2)]
    with FlopCounterMode(display=False) as shared:
        likelihoods(language, prompt, OPTIONS)
    with FlopCounterMode(display=False) as apart:
        for ids in OPTIONS:
            likelihoods(language, prompt, [ids])
    assert 4 * shared.get_total_flops() < apart.get_total_flops()


def test_knows_what_greedy_decoding_would_say() -> None:
    """fails when the most likely continuation is not recognised, or one with another id in it is"""
    language = lively("llama")
    ids = list(PROMPT)
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(language.logits(language(language.embed(torch.tensor([ids]))))[0, -1].argmax()))
    greedy = ids[len(PROMPT) :]
    options = [greedy, greedy[:1], [*greedy[:2], (greedy[2] + 1) % 50], [(greedy[0] + 1) % 50, *greedy[1:]]]
    prompt = EmbeddedPrompts(language.embed(torch.tensor([PROMPT])).detach())
    assert [one.is_greedy for one in likelihoods(language, prompt, options)] == [True, True, False, False]


def test_refuses_what_it_cannot_score() -> None:
    """fails when an empty continuation scores 0, the best of all, or rows of a batch are mixed up"""
    language = lively("llama")
    embeds = language.embed(torch.tensor([PROMPT, PROMPT])).detach()
    for prompt, options in ((embeds[:1], [[3], []]), (embeds, [[3]])):
        with pytest.raises(ValueError, match="one prompt, and at least one id"):
            likelihoods(language, EmbeddedPrompts(prompt), options)


@torch.no_grad()
def whole_row(model: ChatModel, row: Row, ids: Sequence[int]) -> list[float]:
    hidden = states(model, batch_of((*row, *ids)))[0, len(row) - 1 : -1]
    logprobs = model.language.logits(hidden).double().log_softmax(-1)
    return [float(logprobs[at, one]) for at, one in enumerate(ids)]


@pytest.mark.parametrize("reach", ["next", "previous", "all"])
def test_a_fusion_inside_the_model_sees_the_media_of_the_prompt(reach: Any) -> None:
    """fails when continuations read other media than in one forward pass, or a row of a batch depends on the others"""
    model = gated(media=reach)
    options = [[7, 9], [4, 30, 2, 6]]
    whole = batch_of(*ROWS)
    for number, row in enumerate(ROWS):
        found = model.likelihoods(whole.row(number), options)
        assert_equal(found, [whole_row(model, row, ids) for ids in options])
        assert found == model.likelihoods(batch_of(row).row(0), options)


def test_media_in_the_token_sequence_are_part_of_the_prompt() -> None:
    """fails when the media of a row are those of another row, or the row differs from the question asked alone"""
    model = tiny_model().eval()
    whole, options = batch(model, ("image", "audio", "video")), [[7, 9], [4, 30, 2]]
    found = [model.likelihoods(whole.row(number), options) for number in range(3)]
    for number, one in enumerate(found):
        row = whole.row(number)
        assert row.ids.shape[1] == int(whole.lengths[number]) and len(row.media) == 1
        expected = []
        for ids in options:
            more = torch.tensor([ids])
            longer = Batch(
                ids=torch.cat([row.ids, more], 1), positions=torch.arange(row.ids.shape[1] + len(ids))[None],
                lengths=row.lengths + len(ids), predict_at=row.predict_at, target=row.target, media=row.media,
                media_slots=row.media_slots,
            )  # fmt: skip
            with torch.no_grad():
                hidden = model.language(model.prepared(longer)[0])[0, -len(ids) - 1 : -1]
                logprobs = model.language.logits(hidden).double().log_softmax(-1)
            expected.append([float(logprobs[at, new]) for at, new in enumerate(ids)])
        assert_equal(one, expected)
    changed = batch(model, ("image", "audio", "video"), seed=1)
    changed.ids = whole.ids
    assert model.likelihoods(changed.row(0), options) != found[0], "the image does not matter"
