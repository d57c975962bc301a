"""Packed conversations with media, through the whole model: loss, gradients and loss per source."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.datasets.collate import stack
from chatbridge.datasets.packing import pack
from chatbridge.experiment.build import check_segments, has_side_texts, prepare_packing
from chatbridge.models.chat_model import ChatModel
from tests.helpers.tiny_media import layout
from tests.helpers.tiny_models import MEDIA, tiny_model

LOSS, GRADIENT = 1e-5, 1e-5


def samples() -> list[Sample]:
    draw = torch.Generator().manual_seed(1)

    def one(name: str, source: str, *modalities: str) -> Sample:
        shown = tuple(Media(modality, "x") for modality in modalities)
        items = tuple(torch.randn(MEDIA[modality], generator=draw) for modality in modalities)
        return Sample(name, source, (user(*shown, f"what is {name}"), assistant(f"it is {name}.")), items)

    return [one("a", "one", "image", "audio"), one("b", "two"), one("c", "one", "video"), one("d", "two", "image")]


def own_rows(model: ChatModel) -> tuple[list[Sample], list[TokenSequence], int]:
    template = layout("vicuna_v0")
    tokens = template.tokenizer
    tokens.vocab_size = 50  # pyright: ignore[reportAttributeAccessIssue]
    lay = Layout(template.template, tokens, model.media_lengths())
    found = samples()
    return found, [lay.training_sequence(sample.conversation) for sample in found], tokens.pad_id


def loss_and_gradients(model: ChatModel, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(batch)
    mean = loss.total / loss.count
    mean.backward()
    return mean.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_packed_conversations_with_media() -> None:
    """fails when packing changes the loss or the gradient of any part, or an item meets another conversation's slots"""
    model = tiny_model().eval()
    found, rows, pad_id = own_rows(model)
    want, wanted = loss_and_gradients(model, stack(found, rows, pad_id))
    packed = stack(found, [pack(rows[:3]), rows[3]], pad_id)
    got, gradients = loss_and_gradients(model, packed)
    torch.testing.assert_close(got, want, atol=LOSS, rtol=0)
    assert set(gradients) == set(wanted) and "bridges.perceiver.queries.sound" in wanted
    for name, one in gradients.items():
        assert (one - wanted[name]).abs().max() < GRADIENT, name


def test_losses_count_for_the_source_of_each_conversation() -> None:
    """fails when the points of a packed row count for the source of its first conversation"""
    model = tiny_model().eval()
    found, rows, pad_id = own_rows(model)
    want = model(stack(found, rows, pad_id)).per_source
    got = model(stack(found, [pack(rows[:2]), pack(rows[2:])], pad_id)).per_source
    assert {source: count for source, (_, count) in got.items()} == {
        source: count for source, (_, count) in want.items()
    }
    for source, (total, count) in got.items():
        assert float(total / count) == pytest.approx(float(want[source][0] / count), abs=LOSS)


def test_each_prompt_needs_its_own_sequence() -> None:
    """fails when a packed sequence is accepted as a prompt, which would continue one conversation with another one
    visible"""
    model = tiny_model().eval()
    found, rows, pad_id = own_rows(model)
    with pytest.raises(ValueError, match="each prompt needs a sequence of its own"):
        model.generate(stack(found[:2], [pack(rows[:2])], pad_id))


def test_side_texts_are_an_error_before_the_run() -> None:
    """fails when a template with side texts is accepted for a language model that cannot separate them, and only the
    first step fails"""
    mamba = {"model_type": "mamba", "vocab_size": 50, "hidden_size": 20, "num_hidden_layers": 1, "state_size": 4}
    model = tiny_model(language={"name": "causal_lm", "architecture": mamba})
    plain = layout("vicuna_v0")
    check_segments(model, has_side_texts(plain, ()))
    plain.template.writes_side_texts = True
    with pytest.raises(ConfigError, match=r"(?s)model\.language.*mamba.*carry a state.*its own sequence"):
        check_segments(model, has_side_texts(plain, ()))
    check_segments(tiny_model(), has_side_texts(plain, ()))


@pytest.mark.parametrize(("draws", "chosen"), [(True, "sdpa"), (False, "varlen")])
def test_attention_of_packed_rows_follows_the_drawings_of_the_data(draws: bool, chosen: str) -> None:
    """fails when captions as side texts meet attention that cannot express them, or data without a drawing pay for a
    mask, or flash attention is refused for them"""

    class Source:
        has_drawings = draws

    model, drawer = tiny_model(), layout("vicuna_v0")
    drawer.template.can_draw = True
    side_texts = has_side_texts(drawer, [Source()])  # pyright: ignore[reportArgumentType]
    assert side_texts == draws
    prepare_packing(model, side_texts, "packed")
    lm: Any = model.language
    assert lm.lm.config._attn_implementation == chosen
    lm.lm.config._attn_implementation = "varlen"
    if draws:
        with pytest.raises(ConfigError, match="varlen cannot express side texts"):
            check_segments(model, side_texts)
    else:
        check_segments(model, side_texts)
