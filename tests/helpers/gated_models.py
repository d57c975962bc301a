"""Tiny models with a resampler per encoder and gated cross-attention inside the language model."""

from __future__ import annotations

from typing import Any

import torch

from chatbridge.models.chat_model import ChatModel
from tests.helpers.fused_rows import ARCHITECTURES
from tests.helpers.tiny_models import tiny_model

RESAMPLER = {"name": "resampler", "depth": 2, "num_latents": 3, "heads": 2, "head_width": 8, "feed_forward_mult": 2}
GATED = {
    "name": "cross_attention", "every": 2, "heads": 2, "head_width": 8, "feed_forward_mult": 2, "media_width": 24,
}  # fmt: skip
PARTS: dict[str, Any] = {
    "bridges": {"seen": RESAMPLER, "heard": {**RESAMPLER, "num_latents": 2}},
    "routes": {
        "image": {"encoder": "vision", "bridge": "seen"},
        "video": {"encoder": "vision", "bridge": "seen", "frames": {"count": 2}},
        "audio": {"encoder": "audio", "bridge": "heard"},
    },
    "added_tokens": ["<image>"],
}


def gated(architecture: str = "llama", gate: float = 1.0, language: Any = None, **fusion: Any) -> ChatModel:
    """A model whose gates are all at `gate`; more keywords are settings of the fusion."""
    given = language or {"name": "causal_lm", "architecture": ARCHITECTURES[architecture]}
    model = tiny_model(**PARTS, language=given, fusion={**GATED, **fusion}).eval()
    with torch.no_grad():
        for name, parameter in model.fusion.named_parameters():
            if name.endswith("_gate"):
                parameter.fill_(gate)
    return model
