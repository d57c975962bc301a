"""Rows whose answers draw k images against k + 1 sequences without side texts, through the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.attention import visible
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part, Text, assistant, user
from chatbridge.conversation.spans import Span, TextSpan
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.datasets.collate import stack
from chatbridge.datasets.packing import pack
from chatbridge.models.chat_model import ChatModel
from tests.helpers.tiny_languages import ATTENTION
from tests.helpers.tiny_models import MEDIA, PERCEIVER, VISION, tiny_model

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
TOKENS = ("<image>", "<start>", "<end>")
EQUAL = 1e-6  # loss and gradients of the mean loss; the model is in double precision, its loss in fp32
QUICK = ("llama", "gemma2", "gpt2")
SLOW = [
    pytest.param(family, "inline", marks=pytest.mark.slow)
    for family in ATTENTION
    if family not in (*QUICK, "bloom", "mpt", "opt", "falcon")  # as in test_segments
] + [pytest.param("llama", "cross_attention", marks=pytest.mark.slow)]
OPEN = {"every": 1, "heads": 2, "head_width": 8}


def shown(name: str) -> Media:
    return Media("image", name)


TALKS: tuple[Conversation, ...] = (
    (
        user("Look: ", shown("a"), " draw two"),
        assistant("One ", Drawing("a red fox", "b"), " and ", Drawing("an oak", "c"), "done"),
        user("More"),
        assistant(Drawing("a boat", "d")),
    ),
    (user("What is ", shown("e"), "?"), assistant("A cat.")),
    (user("Draw"), assistant("Sure", Drawing("a tone", "f"))),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER, 400, TOKENS)


def layout_of(tokenizer: Tokenizer, **settings: Any) -> Layout:
    return Layout(build_template("textbind", **settings), tokenizer, {"image": 3})


def model_of(family: str, fusion: str = "inline") -> ChatModel:
    """A model in double precision; gpt2 and others have their own names of sizes. Gates of a fusion are open."""
    sizes = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False, "pad_token_id": 0,
             "eos_token_id": 2, "bos_token_id": 1}  # fmt: skip
    own = {**ATTENTION[family], **({"n_embd": 16, "n_layer": 2, "n_head": 2} if family == "gpt2" else {})}
    made = tiny_model(
        encoders={"vision": VISION},
        bridges={"perceiver": {**PERCEIVER, "queries": {"image": "visual"}}},
        routes={"image": {"encoder": "vision", "bridge": "perceiver"}},
        language={"name": "causal_lm", "architecture": {"model_type": family, **sizes, **own}},
        added_tokens=list(TOKENS),
        fusion={"name": fusion, **(OPEN if fusion != "inline" else {})},
    )
    for name, parameter in made.named_parameters():
        if "gate" in name and "fusion" in name:
            torch.nn.init.constant_(parameter, 0.5)
    return made.double().eval()


def sample_of(talk: Conversation, row: TokenSequence) -> Sample:
    """Images by name, so that an image is the same in every sequence; those of the row alone."""
    names = [str(item.ref) for message in talk for item in message.media][: len(row.media_slots)]
    items = (torch.randn(MEDIA["image"], generator=torch.Generator().manual_seed(ord(name))) for name in names)
    parts: tuple[Part, ...] = tuple(shown(name) for name in names)
    return Sample("s", "s", (Message("user", parts),), tuple(item.double() for item in items))


def batch_of(rows: Sequence[TokenSequence], talks: Sequence[Conversation]) -> Batch:
    """Rows, packed ones among them, of these conversations in order."""
    samples = []
    counted = iter(talks)
    for row in rows:
        for number in range(row.num_conversations):
            slots = [slot for slot in row.media_slots if row.conversation_of(slot.start) == number]
            samples.append(sample_of(next(counted), replace(row, media_slots=slots)))
    return stack(samples, rows, 0)


def separate_rows(layout: Layout, talk: Conversation) -> list[TokenSequence]:
    """The base, whose drawings are images alone, and a sequence for each caption that ends with it."""
    undrawn = tuple(replace(message, parts=tuple(part if isinstance(part, Text) else shown(str(part.ref))
                                                 for part in message.parts)) for message in talk)  # fmt: skip
    tokens = layout.tokenizer
    base = [  # an answer that is an image alone has no text, but its end is supervised
        replace(span, supervised=True) if isinstance(span, TextSpan) and span.ids == (tokens.eos_id,) else span
        for span in layout.template.spans(undrawn, layout._encode, layout.media_lengths, False, layout._specials)
    ]
    rows = [layout._sequence_of(base)]
    opening = layout.template.drawing_ids
    assert opening is not None
    for turn, message in enumerate(talk):
        for at, part in enumerate(message.parts):
            if isinstance(part, Drawing):
                last = Message("assistant", (*undrawn[turn].parts[:at], Drawing(part.caption)))
                spans: list[Span] = layout.template.spans(
                    (*undrawn[:turn], last), layout._encode, layout.media_lengths, False, layout._specials
                )
                end = next(k for k, span in enumerate(spans) if isinstance(span, TextSpan) and opening[0] in span.ids)
                rows.append(layout._sequence_of([*_silent(spans[:end]), spans[end]]))
    return rows


def _silent(spans: Sequence[Span]) -> list[Span]:
    return [replace(span, supervised=False) if isinstance(span, TextSpan) else span for span in spans]


def loss_and_gradients(model: ChatModel, batches: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the mean over all supervised points of all batches."""
    model.zero_grad()
    count = sum(batch.num_supervised for batch in batches)
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        loss = model(batch).total / count
        loss.backward()
        total += loss.detach()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return total, gradients


@pytest.mark.parametrize(("family", "fusion"), [*((family, "inline") for family in QUICK), *SLOW])
def test_a_row_with_k_captions_equals_k_plus_one_sequences(family: str, fusion: str, tokenizer: Tokenizer) -> None:
    """fails when a caption sees another caption or its image, the base sees a caption, a token is weighted otherwise,
    or padding or packing changes any of it"""
    model = model_of(family, fusion)
    layout = Layout(build_template("textbind"), tokenizer, model.media_lengths())
    talks = TALKS if fusion == "inline" else (*TALKS[:2], TALKS[0])  # blocks see that an image comes later
    apart = [[row] for talk in talks for row in separate_rows(layout, talk)]
    owners = [[talk] for talk in talks for _ in separate_rows(layout, talk)]
    assert len(apart) == 4 + 1 + (2 if fusion == "inline" else 4)
    want, wanted = loss_and_gradients(model, [batch_of(*pair) for pair in zip(apart, owners, strict=True)])
    rows = [layout.training_sequence(talk) for talk in talks]
    forms = {"padded": [batch_of(rows, talks)], "packed": [batch_of([pack(rows[:2]), rows[2]], talks)],
             "grouped": [batch_of(rows[:1], talks[:1]), batch_of(rows[1:], talks[1:])]}  # fmt: skip
    for form, batches in forms.items():
        assert sum(batch.num_supervised for batch in batches) == sum(len(row.target) for (row,) in apart)
        got, gradients = loss_and_gradients(model, batches)
        torch.testing.assert_close(got, want, atol=EQUAL, rtol=0, msg=form)
        assert set(gradients) == set(wanted), form
        for name, one in gradients.items():
            assert (one - wanted[name]).abs().max() < EQUAL, (form, name)


def brute_force(rows: Sequence[TokenSequence], width: int) -> Tensor:
    """bool[B, L, L] of cumulative captions, cell by cell from the segments of the tokens."""
    seen = torch.zeros(len(rows), width, width, dtype=torch.bool)
    for number, row in enumerate(rows):
        assert row.segments is not None
        for query, own in enumerate(row.segments):
            for key, other in enumerate(row.segments[: query + 1]):
                if own.conversation != other.conversation:
                    continue
                if own.branch == 0:
                    seen[number, query, key] = other.branch == 0
                else:
                    assert own.anchor is not None
                    seen[number, query, key] = other.branch > 0 or key < own.anchor
    return seen


def test_cumulative_captions_against_a_mask_of_every_cell(tokenizer: Tokenizer) -> None:
    """fails when a caption does not see the earlier captions of its conversation, sees those of another one, or the
    switch changes anything else"""
    model, layout = model_of("llama"), layout_of(tokenizer, side_texts="cumulative")
    rows = [layout.training_sequence(talk) for talk in TALKS]
    packed = [pack(rows[:2]), rows[2]]
    batch = batch_of(packed, TALKS)
    assert batch.segments is not None and batch.segments.cumulative
    masks = brute_force(packed, batch.ids.shape[1])
    for number, row in enumerate(packed):
        got = visible(batch.segments)[number, : len(row), : len(row)]
        assert torch.equal(got, masks[number, : len(row), : len(row)])
    embeds, _ = model.prepared(batch)
    padding = torch.eye(embeds.shape[1], dtype=torch.bool)
    added = torch.zeros(masks.shape, dtype=torch.float64).masked_fill(~(masks | padding), -1e30)[:, None]
    hidden = model.language.lm.base_model(  # pyright: ignore[reportAttributeAccessIssue]
        inputs_embeds=embeds, attention_mask=added, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    logits = model.language.logits(hidden.flatten(0, 1)[batch.predict_at])
    want = torch.nn.functional.cross_entropy(logits, batch.target, reduction="sum").float()
    torch.testing.assert_close(model(batch).total, want, atol=0, rtol=EQUAL)
    isolated = replace(batch, segments=replace(batch.segments, cumulative=False))
    assert (model(isolated).total - want).abs() > 20 * EQUAL * want, "the captions would not disturb each other anyway"
    own = [layout_of(tokenizer).training_sequence(talk) for talk in TALKS]
    assert torch.equal(model(isolated).total, model(batch_of([pack(own[:2]), own[2]], TALKS)).total)
    with pytest.raises(ValueError, match="cannot share a batch"):
        batch_of([own[0], rows[2]], [TALKS[0], TALKS[2]])


def test_a_batch_travels_with_its_mask(tokenizer: Tokenizer) -> None:
    """fails when a worker process, a device or pinned memory loses whether captions are cumulative"""
    import pickle

    layout = layout_of(tokenizer, side_texts="cumulative")
    batch = batch_of([layout.training_sequence(TALKS[0])], TALKS[:1])
    for moved in (pickle.loads(pickle.dumps(batch)), batch.to("cpu")):
        assert moved.segments.cumulative
    plain = batch_of([layout.training_sequence(TALKS[1])], TALKS[1:2])
    assert plain.segments is None
