"""Attention by device and dtype: the same numbers as torch's fused attention, and the choice itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.models.attention_by_device import SDPA_OR_MATMUL, attention, choose_by_device, prefers_matmul
from chatbridge.models.encoders._eva_attention import EvaAttentionByDevice
from chatbridge.models.placement import place_model
from tests.helpers.tiny_languages import ATTENTION, tiny_language
from tests.helpers.tiny_models import AUDIO, LANGUAGE, PERCEIVER, VISION, batch, tiny_model

BF16 = 2e-2  # relative: eight bits of mantissa in scores and shares


def tensors(dtype: torch.dtype, length: int = 6, keys: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    sizes = [(2, 4, length, 8), (2, 4, keys, 8), (2, 4, keys, 8)]
    q, k, v = (torch.randn(size, generator=draw).to(dtype).requires_grad_() for size in sizes)
    return q, k, v


def masks(kind: str, length: int = 6, keys: int = 9) -> Tensor | None:
    draw = torch.Generator().manual_seed(1)
    seen = torch.rand(2, 1, length, keys, generator=draw) > 0.4
    seen[..., 0] = True
    return {"none": None, "bool": seen, "float": torch.randn(2, 4, length, keys, generator=draw)}[kind]


@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal"])
def test_products_equal_fused_attention(kind: str):
    """fails when the scale, a mask or the causal order differs from scaled_dot_product_attention, or a gradient does"""
    causal = kind == "causal"
    mask = None if causal else masks(kind)
    found, expected = tensors(torch.bfloat16, keys=6 if causal else 9), tensors(torch.float32, keys=6 if causal else 9)
    given = {"attn_mask": mask, "is_causal": causal, "scale": 0.3}
    y = attention(*found, None if mask is None else mask.to(y_dtype(mask)), is_causal=causal, scale=0.3)
    wanted = F.scaled_dot_product_attention(*expected, **given)
    torch.testing.assert_close(y.float(), wanted, rtol=BF16, atol=BF16)
    y.float().square().sum().backward()
    wanted.square().sum().backward()
    for one, other in zip(found, expected, strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=5 * BF16, atol=5 * BF16)


def y_dtype(mask: Tensor) -> torch.dtype:
    return torch.bool if mask.dtype == torch.bool else torch.bfloat16


def test_a_row_that_sees_nothing_has_no_nan():
    """fails when a padded row spreads nan to the gradients of others"""
    q, k, v = tensors(torch.bfloat16)
    y = attention(q, k, v, torch.zeros(6, 9, dtype=torch.bool))
    y.float().sum().backward()
    assert y.isfinite().all()
    assert q.grad is not None and q.grad.isfinite().all()


def test_fp32_keeps_fused_attention_to_the_bit():
    """fails when the default path of fp32 changes its numbers"""
    q, k, v = tensors(torch.float32)
    assert torch.equal(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_choice(monkeypatch: pytest.MonkeyPatch):
    """fails when long sequences in bf16 hold all their scores, or a single new token leaves the fused kernel"""
    assert prefers_matmul(*tensors(torch.bfloat16)[:2])
    assert not prefers_matmul(*tensors(torch.float32)[:2])
    assert not prefers_matmul(*tensors(torch.bfloat16, length=1)[:2])
    assert not prefers_matmul(*(one.detach().to("meta") for one in tensors(torch.bfloat16)[:2]))
    monkeypatch.setattr("chatbridge.models.attention_by_device.MOST_SCORE_BYTES", 2 * 4 * 6 * 9 * 2 - 1)
    assert not prefers_matmul(*tensors(torch.bfloat16)[:2])


@pytest.mark.parametrize("family", [name for name in ATTENTION if name != "gemma2"])
def test_language_models_have_the_same_states(family: str):
    """fails when a family's mask, scale or grouped heads differ between its own attention and the one by device"""
    language = tiny_language(family).bfloat16()
    embeds = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
    expected = language(embeds, torch.arange(7).expand(2, -1))
    choose_by_device(language)
    found = language(embeds, torch.arange(7).expand(2, -1))
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)


def implementations(model: Any) -> set[str]:
    return {one.config._attn_implementation for one in model.modules() if hasattr(one, "config")
            and hasattr(one.config, "_attn_implementation")}  # fmt: skip


def test_placing_a_model_chooses_where_no_setting_does():
    """fails when a placed model has transformers' default on every device, or a setting in the YAML is overruled"""
    model = tiny_model()
    place_model(model, "cpu", torch.bfloat16)
    assert implementations(model.language.lm) == implementations(model.bridges) == {SDPA_OR_MATMUL}
    assert sum(type(one) is EvaAttentionByDevice for one in model.modules()) == VISION["depth"]
    settings: dict[str, Any] = {
        "language": {**LANGUAGE, "attention": "sdpa"},
        "bridges": {"perceiver": {**PERCEIVER, "attention": "eager"}},
    }
    model = tiny_model(**settings)
    place_model(model, "cpu", torch.bfloat16)
    assert implementations(model.language.lm) == {"sdpa"}
    assert implementations(model.bridges) == {"eager"}


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_encoders_in_bf16_have_the_features_of_fp32(modality: str):
    """fails when an encoder's attention in bf16 has another scale, bias or padding than in fp32"""
    assert AUDIO["depth"] == 1
    features = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model()
        place_model(model, "cpu", dtype)
        media = batch(model, (modality,)).media[modality]
        route = model.routes[modality]
        with model._precision(), torch.no_grad():
            features.append(route.encoder(route.flat(media)[0], modality).x.float())
    torch.testing.assert_close(features[1], features[0], rtol=5e-2, atol=5e-2)
