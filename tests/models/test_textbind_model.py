"""TextBind as the reference assembles it, of transformers' classes and a dense mask: our model is equal with its files.

Source: shared fact sheet of TextBind, sections 2.1 to 2.4 (sequence, labels, positions, mask) and 3 (model).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2QFormerModel, LlamaConfig, LlamaForCausalLM

from chatbridge.common.types import Sample
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing, Media, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.datasets.collate import stack
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_component
from tests.helpers.textbind_release import BLIP2_VISION, FEATURES, ROWS, TOKENS, stage_2_file, textbind, tiny_blip2
from tests.helpers.tiny_models import LANGUAGE

IMAGE, START, END = range(ROWS, ROWS + 3)
N = 3  # tokens per image


class Words:
    """A hashed id for every word or mark; the added tokens are in no text."""

    bos_id, eos_id, pad_id, vocab_size = 1, 2, 0, ROWS + 3

    def encode(self, text: str) -> list[int]:
        return [3 + zlib.crc32(piece.encode()) % (ROWS - 3) for piece in re.findall(r"\w+|[^\w\s]", text)]

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError("hashes cannot be read back")

    def token_id(self, token: str) -> int | None:
        return ROWS + TOKENS.index(token) if token in TOKENS else None


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChatModel, Any]:
    """Our model with the released files, and BLIP-2 of transformers."""
    folder = tmp_path_factory.mktemp("release")
    blip2 = tiny_blip2(folder / "blip2-flan-t5-tiny")
    torch.save(stage_2_file(), folder / "second_stage_model.pt")
    model = textbind(encoders={"vision": {"name": "eva_vit", **BLIP2_VISION, "eps": 1e-5}})
    load_component(model.encoders["vision"], blip2.folder)  # pyright: ignore[reportArgumentType]
    start_from(model, folder / "second_stage_model.pt")
    return model.eval(), blip2.model


def sample() -> Sample:
    shown = Media("image", "x")
    conversation = (
        user("look at ", shown, " and ", shown, " , then draw"),
        assistant("here ", Drawing("an old oak", "x"), " and ", Drawing("a red kite", "x"), " as you see"),
        user("more ", shown),
        assistant("no"),
    )
    draw = torch.Generator().manual_seed(2)
    return Sample("a", "s", conversation, tuple(torch.randn(3, 28, 28, generator=draw) for _ in range(5)))


def row_of(side_texts: str) -> TokenSequence:
    template = build_template("textbind", side_texts=side_texts)
    return Layout(template, Words(), {"image": N}).training_sequence(sample().conversation)


def reference_loss(row: TokenSequence, blip2: Any, isolated: bool) -> tuple[Tensor, Tensor]:
    """Loss and the gradient of the projection's bias float[D], computed as the reference does."""
    branch = [segment.branch for segment in row.segments or ()]
    order = sorted(range(len(row)), key=lambda at: branch[at])  # captions at the end
    ids, branch = torch.tensor([row.ids[at] for at in order]), torch.tensor([branch[at] for at in order])
    positions = torch.tensor([row.positions[at] for at in order])
    tensors = stage_2_file()
    lm = LlamaForCausalLM(
        LlamaConfig(**{**LANGUAGE["architecture"], "vocab_size": ROWS + 3}, attn_implementation="eager")
    )
    lm.load_state_dict({name: tensors[f"language_model.{name}"] for name in lm.state_dict()})
    projection = torch.nn.Linear(16, 20)
    projection.load_state_dict({one: tensors[f"qformer_projection.{one}"] for one in ("weight", "bias")})
    embeds = lm.get_input_embeddings()(ids).clone()
    embeds[(ids == IMAGE).nonzero().flatten()] = images_of(tensors, projection, blip2)
    seen = mask_of(branch, positions, isolated)
    bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits = lm.eval()(inputs_embeds=embeds[None], attention_mask=bias[None, None], position_ids=positions[None]).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels_of(ids, branch)[1:])
    loss.backward()
    assert projection.bias.grad is not None
    return loss.detach(), projection.bias.grad


def images_of(tensors: dict[str, Tensor], projection: torch.nn.Module, blip2: Any) -> Tensor:
    """float[M * N, D] of all images in their order."""
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, cross_attention_frequency=2,
        encoder_hidden_size=FEATURES,
    )  # fmt: skip
    qformer = Blip2QFormerModel(config).eval()
    qformer.load_state_dict({n.removeprefix("qformer."): v for n, v in tensors.items() if n.startswith("qformer.")})
    features = blip2.vision_model(torch.stack(list(sample().media))).last_hidden_state
    queries = tensors["query_tokens"].expand(5, -1, -1)
    return projection(qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state).flatten(0, 1)


def labels_of(ids: Tensor, branch: Tensor) -> Tensor:
    """int[L]: -100 up to [/INST] of each round, `<start>` at the first slot of a drawn image, captions without it."""
    close = Words().encode("[/INST]")
    labels, inside, at = torch.full_like(ids, -100), False, 0
    while at < len(ids):
        if branch[at] > 0:
            labels[at] = ids[at] if ids[at] != START else -100
        elif ids[at] == Words.bos_id:
            inside = False
        elif inside and ids[at] == IMAGE:
            labels[at] = START
            at += N - 1
        elif inside:
            labels[at] = ids[at]
        elif ids[at - len(close) + 1 : at + 1].tolist() == close:
            inside = True
        at += 1
    return labels


def mask_of(branch: Tensor, positions: Tensor, isolated: bool) -> Tensor:
    """bool[L, L]: a base row sees the base before it; a caption the base before its anchor and itself, and in the
    reference all captions before it too."""
    size = len(branch)
    seen = torch.zeros(size, size, dtype=torch.bool)
    for row in range(size):
        anchor = int(positions[branch == branch[row]].min())
        for column in range(row + 1):
            if branch[column] == 0:
                seen[row, column] = branch[row] == 0 or positions[column] < anchor
            else:
                seen[row, column] = branch[column] == branch[row] or not isolated
    return seen


@pytest.mark.parametrize("side_texts", ["isolated", "cumulative"])
def test_the_released_model(parts: tuple[ChatModel, Any], side_texts: str) -> None:
    """Fails when a tensor, a position, a label or a cell of the mask is not that of the reference's model."""
    model, blip2 = parts
    row = row_of(side_texts)
    assert row.segments is not None and {segment.branch for segment in row.segments} == {0, 1, 2}
    assert row.ids.count(IMAGE) == 5 * N and row.ids.count(START) == row.ids.count(END) == 2
    model.zero_grad()
    found = model(stack([sample()], [row], 0))
    (found.total / found.count).backward()
    want, gradient = reference_loss(row, blip2, isolated=side_texts == "isolated")
    torch.testing.assert_close(found.total.detach() / found.count, want, atol=1e-5, rtol=1e-6)
    own = model.bridges["qformer"].output.bias.grad  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-4)
    other, _ = reference_loss(row, blip2, isolated=side_texts != "isolated")
    assert abs(float(other - want)) > 1e-4
