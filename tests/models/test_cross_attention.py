"""Gated cross-attention inside language models, with resamplers over two encoders."""

from __future__ import annotations

import pytest
import torch

from chatbridge.common.types import Batch
from chatbridge.models.chat_model import ChatModel
from tests.helpers.fused_rows import (
    ARCHITECTURES,
    ROWS,
    batch_of,
    states,
)
from tests.helpers.gated_models import gated
from tests.helpers.tiny_models import tiny_model
from tests.helpers.tolerances import FP32

REACHES = ("next", "previous", "all")


@pytest.fixture(scope="module")
def models() -> dict[str, ChatModel]:
    return {reach: gated(media=reach) for reach in REACHES}


def reads(model: ChatModel, whole: Batch) -> list[list[bool]]:
    """Which media tokens each position of the first row reads."""
    _, context = model.fusion.prepare(model.language.embed(whole.ids), model.media_tokens(whole.media), whole)
    return context.reads[0].int().tolist()


def test_each_reach_reads_its_items(models: dict[str, ChatModel]) -> None:
    """Fails when a position reads another item than documented; the one of an item always reads itself."""
    whole = batch_of(ROWS[1])  # 1 image 8 audio 6 11 12 3; three tokens of the image, two of the audio
    image, audio, none, both = [1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0] * 5, [1] * 5
    assert reads(models["next"], whole) == [image, image, audio, audio, none, none, none, none]
    assert reads(models["previous"], whole) == [none, image, image, audio, audio, audio, audio, audio]
    assert reads(models["all"], whole) == [none, image, image, both, both, both, both, both]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_gates_leave_the_language_model_as_it_is(architecture: str) -> None:
    """Fails when blocks with gates at zero change a logit by a single bit, or rename a tensor."""
    model = gated(architecture, gate=0.0)
    text = tiny_model(language={"name": "causal_lm", "architecture": ARCHITECTURES[architecture]}).language
    text.load_state_dict(model.language.state_dict())
    whole = batch_of(*ROWS)
    embeds, context = model.prepared(whole)
    model.fusion.show(context)
    found = model.language.logits(model.language(embeds, whole.positions))[..., :50]
    assert torch.equal(found, text.logits(text(embeds, whole.positions)))
    assert set(model.fusion.state_dict()) == {
        f"layers.1.{name}" for name in (
            "attention_gate", "feed_forward_gate", "attention.norm.weight", "attention.norm.bias",
            "attention.to_q.weight", "attention.to_kv.weight", "attention.to_out.weight", "feed_forward.norm.weight",
            "feed_forward.norm.bias", "feed_forward.up.weight", "feed_forward.down.weight",
        )
    }  # fmt: skip


@pytest.mark.parametrize("reach", REACHES)
def test_rows_do_not_depend_on_their_batch(models: dict[str, ChatModel], reach: str) -> None:
    """Fails when a row, also one without media, has other states in a batch than alone."""
    model = models[reach]
    together = states(model, batch_of(*ROWS))
    for number, row in enumerate(ROWS):
        torch.testing.assert_close(together[number, : len(row)], states(model, batch_of(row))[0], atol=FP32, rtol=FP32)
