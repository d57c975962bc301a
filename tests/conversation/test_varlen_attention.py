"""Attention by the borders of packed conversations: the same as with a dense mask, and what the kernel is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.common.types import Batch, Sample
from chatbridge.conversation import varlen_attention
from chatbridge.conversation.attention import attention_arguments, obstacle
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.conversation.varlen_attention import by_conversation, kernel_arguments
from chatbridge.datasets.collate import stack
from chatbridge.datasets.packing import pack
from chatbridge.models.language.causal_lm import CausalLM
from tests.helpers.tiny_languages import tiny_language

LOSS, GRADIENT = 1e-5, 1e-5


def text(seed: int, length: int) -> TokenSequence:
    ids = torch.randint(3, 50, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return TokenSequence(ids, predict_at=list(range(length - 1)), target=ids[1:])


def rows() -> Batch:
    """A row of three conversations, and a shorter one of one."""
    found = [pack([text(1, 9), text(2, 8), text(3, 5)]), text(4, 7)]
    return stack([Sample(str(number), "s", ()) for number in range(4)], found, 0)


def with_attention(family: str, name: str) -> CausalLM:
    varlen_attention.register()
    model = tiny_language(family)
    model.lm.set_attn_implementation(name)
    return model


def loss(model: CausalLM, batch: Batch) -> Tensor:
    hidden = model(model.embed(batch.ids), batch.positions, batch.segments).flatten(0, 1)
    return F.cross_entropy(model.logits(hidden[batch.predict_at]), batch.target, reduction="none")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_the_same_losses_and_gradients_as_with_a_dense_mask(family: str) -> None:
    """fails when a conversation sees another one or padding, its window is lost, or grouped heads are misplaced"""
    batch, found = rows(), []
    for name in ("sdpa", "varlen"):
        model = with_attention(family, name)
        losses = loss(model, batch)
        losses.mean().backward()
        found.append((losses.detach(), {name: one.grad for name, one in model.named_parameters()}))
    torch.testing.assert_close(found[1][0], found[0][0], atol=LOSS, rtol=0)
    for name, gradient in found[0][1].items():
        assert gradient is not None and (found[1][1][name] - gradient).abs().max() < GRADIENT, name


def test_a_batch_without_segments_is_that_of_sdpa() -> None:
    """fails when plain batches, prompts and answers do not work as before"""
    batch = stack([Sample("a", "s", ()), Sample("b", "s", ())], [text(1, 9), text(2, 6)], 0)
    torch.testing.assert_close(
        loss(with_attention("llama", "varlen"), batch), loss(with_attention("llama", "sdpa"), batch)
    )


def test_borders_of_a_padded_batch() -> None:
    """fails when the padding of a row joins the conversation before it, or two rows join at their border"""
    model, batch = with_attention("llama", "varlen"), rows()
    arguments = attention_arguments(model.lm.base_model, model.embed(batch.ids), batch.positions, batch.segments)
    assert arguments["cu_seq_lens_q"].tolist() == [0, 9, 17, 22, 29, 44] and arguments["max_length_q"] == 15
    assert arguments["cu_seq_lens_q"].dtype == torch.int32 and arguments["attention_mask"].shape == (1, 1, 1, 1)


def test_what_the_kernel_is_given() -> None:
    """fails when a version of torch gets no causal mask, the wrong scale, or a window one too wide"""

    def of_2_10(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: Any, max_k: Any,
                is_causal: bool = False, return_aux: Any = None) -> None: ...  # fmt: skip

    def of_2_11(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: Any, max_k: Any, *,
                return_aux: Any = None, scale: Any = None, window_size: Any = (-1, -1)) -> None: ...  # fmt: skip

    assert kernel_arguments(of_2_10, 16, 0.25, None) == ({"is_causal": True}, 1.0)
    assert kernel_arguments(of_2_10, 16, 0.5, None) == ({"is_causal": True}, 2.0)
    assert kernel_arguments(of_2_11, 16, 0.5, None) == ({"window_size": (-1, 0), "scale": 0.5}, 1.0)
    assert kernel_arguments(of_2_11, 16, 0.5, 5) == ({"window_size": (4, 0), "scale": 0.5}, 1.0)
    with pytest.raises(ValueError, match="has no window; update torch"):
        kernel_arguments(of_2_10, 16, 0.25, 5)


def test_the_kernel_of_this_torch_takes_these_arguments() -> None:
    """fails when an update of torch renames an argument: the GPU path would fail in its first step"""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    arguments, factor = kernel_arguments(varlen.varlen_attn, 16, 0.25, None)
    assert factor == 1.0 and set(arguments) in ({"window_size", "scale"}, {"is_causal"})


def test_a_window_counts_inside_a_conversation() -> None:
    """fails when a query of a sliding window sees one position too many, or none of its own conversation"""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(9, 2, 4, generator=draw) for _ in range(3))
    found = by_conversation(query, key, value, [0, 6, 9], 0.5, window=2)
    scores = torch.einsum("qhc,khc->hqk", query, key) * 0.5
    at = torch.arange(9)
    seen = (at[:, None] - at >= 0) & (at[:, None] - at < 2) & ((at[:, None] < 6) == (at < 6))
    wanted = torch.einsum("hqk,khc->qhc", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)
    torch.testing.assert_close(found, wanted)


def test_models_that_the_kernel_does_not_fit() -> None:
    """fails when capped scores, dropout or side texts are lost in silence"""
    model = with_attention("gemma2", "varlen").lm.base_model
    assert "varlen has no capped scores, as gemma2 needs" in str(obstacle(model))
    model = with_attention("llama", "varlen").lm.base_model
    assert obstacle(model) is None and "cannot express side texts" in str(obstacle(model, side_texts=True))
    model.config.attention_dropout = 0.1
    assert "varlen has no dropout, and attention_dropout is 0.1" in str(obstacle(model))


def test_the_setting_selects_it() -> None:
    """fails when attention: varlen is not a setting of a language model"""
    sizes = {"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
             "num_hidden_layers": 1, "num_attention_heads": 4}  # fmt: skip
    model = CausalLM(CausalLM.Config(architecture=sizes, attention="varlen"))
    assert model.lm.config._attn_implementation == "varlen" and model.segments_obstacle() is None


def test_packed_rows_choose_it_and_loading_keeps_it(tmp_path: Path) -> None:
    """fails when packed rows get a dense mask by default, a chosen implementation is replaced, or a family that varlen
    does not fit gets it"""
    sizes = {"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
             "num_hidden_layers": 1, "num_attention_heads": 4}  # fmt: skip
    CausalLM(CausalLM.Config(architecture=sizes)).lm.save_pretrained(tmp_path)
    model = CausalLM(CausalLM.Config(weights=tmp_path))
    assert model.use_packed_attention() == "varlen"
    model.load(torch.device("cpu"), torch.float32)
    assert model.lm.config._attn_implementation == "varlen"
    chosen = CausalLM(CausalLM.Config(architecture=sizes, attention="sdpa"))
    assert chosen.use_packed_attention() is None and chosen.lm.config._attn_implementation == "sdpa"
    capped = tiny_language("gemma2")
    before = capped.lm.config._attn_implementation
    assert capped.use_packed_attention() is None and capped.lm.config._attn_implementation == before
