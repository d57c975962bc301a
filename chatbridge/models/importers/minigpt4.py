"""Load MiniGPT-4's released checkpoints: {"model": {"llama_proj.weight", "llama_proj.bias"}}.

All other weights are public and frozen. The runner deletes frozen parameters but not buffers, so some files also have
position ids of the Q-Former and rotary frequencies of the language model, which follow from the sizes. ChatBridge
writes the same kind of file if its Q-Former is frozen. Published: 13B and 7B for Vicuna v0 (768 input channels),
Llama-2 7B (5632, no Q-Former), all after stage 2, and the first two after stage 1.
Source: Vision-CAIR/MiniGPT-4: minigpt4/runners/runner_base.py (_save_checkpoint).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import Component, State
from chatbridge.models.loading import fill

_NETWORKS = ("Qformer.bert.encoder.", "visual_encoder.", "audio_encoder.", "audio_trans.")
_BUFFERS = (
    (r"^Qformer\.bert\.embeddings\.position_ids$", "buffer of the Q-Former's text branch, not used"),
    (r"^llama_model\..*rotary_emb\.inv_freq$", "buffer that follows from the sizes"),
    (r"^llama_model\..*attn\.(bias|masked_bias)$", "buffer that follows from the sizes"),
)


def buffer_reason(key: str) -> str | None:
    """The reason why a tensor of such a file is not used; None if it is."""
    return next((reason for pattern, reason in _BUFFERS if re.match(pattern, key)), None)


def is_projection_only(state: State) -> bool:
    """Whether a file has a projection but not the network before it."""
    return any(key.startswith("llama_proj.") for key in state) and not any(key.startswith(_NETWORKS) for key in state)


def fill_projection(model: ChatModel, state: State, path: Path) -> list[str]:
    """Load the projection into the bridge of the image route.

    returns  lines for the log: tensors that were loaded, and dropped ones with the reason
    raises   ValueError when the model lacks a tensor of the file, a shape differs, or weight or bias is missing
    """
    name, bridge = image_bridge(model)
    if "output.weight" not in bridge.state_dict():
        raise ValueError(f"{path} holds a linear projection, but bridges.{name} ({type(bridge).__name__}) has none")
    dropped = {key: reason for key in state if (reason := buffer_reason(key)) is not None}
    kept = {key: value for key, value in state.items() if key not in dropped}
    if unknown := [key for key in kept if not key.startswith("llama_proj.")]:
        raise ValueError(f"{path} has unexpected tensors besides its projection: {', '.join(unknown[:10])}")
    report = fill(bridge, kept, path, only=("output.",))
    lines = [f"bridges.{name}: {len(report.loaded)} tensors from {path}"]
    for reason in sorted(set(dropped.values())):
        lines.append(f"dropped: {sum(one == reason for one in dropped.values())} tensors ({reason})")
    return lines


def image_bridge(model: ChatModel) -> tuple[str, Component]:
    """Name and module of the bridge of the image route. raises ValueError for a model without one"""
    route = model.config.routes.get("image")
    if route is None:
        raise ValueError(f"the file is for images, and this model has routes only for {', '.join(model.config.routes)}")
    bridge: Any = model.bridges[route.bridge]
    return route.bridge, bridge
