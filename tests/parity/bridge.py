"""The Q-Former alone: every layer, and masks over its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from chatbridge.common.types import Features
from chatbridge.models.bridges.qformer import QFormer
from chatbridge.models.loading import load_component
from tests.parity.golden import Check, Golden
from tests.parity.weight_files import hooked, other_eps, released_file


def qformer_settings(sizes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Convert the reference's names of sizes to ours."""
    return {
        "num_queries": sizes["query_length"], "num_layers": sizes["num_hidden_layers"], "width": sizes["hidden_size"],
        "heads": sizes["num_attention_heads"], "mlp_width": sizes["intermediate_size"],
        "cross_every": sizes["cross_attention_freq"], "memory_width": sizes["encoder_width"], **more,
    }  # fmt: skip


def qformer(check: Check) -> None:
    """Last states with no mask, with a mask of ones and with a real one; the state after every layer."""
    golden = check.golden
    bridge = _filled(golden)
    layers = {f"hidden{i + 1}": layer for i, layer in enumerate(bridge.qformer.encoder.layer)}
    seen = hooked({"hidden0": bridge.qformer.layernorm, **layers})
    x, mask = golden.inputs["encoder_hidden_states"], golden.inputs["encoder_attention_mask"].bool()
    with torch.no_grad():
        found = {"last_hidden_state": bridge(Features(x), "image"), **seen}
        found["last_hidden_state_ones_mask"] = bridge(Features(x, torch.ones_like(mask)), "image")
        found["last_hidden_state_masked"] = bridge(Features(x, mask), "image")
    for name, want in golden.outputs.items():
        if name in found:
            check.close(name, found[name].expand_as(want) if name == "hidden0" else found[name])


def _filled(golden: Golden) -> QFormer:
    """Queries are an input of the case and a tensor of a real file; the output projection is removed."""
    settings = qformer_settings(golden.config, queries={"image": "visual"})
    bridge = QFormer(QFormer.Config(**settings), {"image": golden.config["encoder_width"]}, out_width=8).eval()
    with released_file({**golden.weights, "query_tokens": golden.inputs["query_tokens"]}) as path:
        load_component(bridge, path)
    other_eps(bridge.qformer, golden.config.get("layer_norm_eps"), released=1e-12)
    bridge.output = nn.Identity()  # type: ignore[assignment]
    return bridge
