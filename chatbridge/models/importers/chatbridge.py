"""Load checkpoints of the released ChatBridge and MiniGPT-4: one flat state dict of the whole model.

A file has all tensors or only the trained ones. A component without any tensor in the file keeps its values; any other
component must be filled completely, as by a file of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import Component, State
from chatbridge.models.loading import fill
from chatbridge.models.weight_files import prefixes_of, read_state, without_prefix

_PREFIXES = {
    "image": ("visual_encoder.", "ln_vision."),
    "audio": ("audio_encoder.", "ln_audio."),
    "language": ("llama_model.",),
}
RELEASED = (*(one for prefixes in _PREFIXES.values() for one in prefixes), "Qformer.", "llama_proj.", "query_tokens")


def load_chatbridge(model: ChatModel, path: Path | str) -> list[str]:
    """Load a released checkpoint file into a model.

    returns  a line per component, for the log
    raises   ValueError when the model lacks a tensor of the file, or a component is filled incompletely
    """
    path = Path(path)
    return fill_from_released(model, unwrapped(read_state(path))[0], path)


def fill_from_released(model: ChatModel, state: State, path: Path) -> list[str]:
    """`load_chatbridge` for tensors that are in memory already."""
    lines = []
    for role, tensors in split(state).items():
        if role == "language" and all(key.endswith("rotary_emb.inv_freq") for key in tensors):
            lines.append(f"dropped: {len(tensors)} tensors of the language model (buffers that follow from the sizes)")
            continue
        name, part = _part(model, role)
        if part is None:
            raise ValueError(f"{path} has {role} tensors ({next(iter(tensors))}), and this model has no {role} route")
        if role == "language" and getattr(getattr(part, "lm", None), "is_loaded_in_8bit", False):
            raise ValueError(
                f"{path} contains a language model, which cannot replace one in 8 bit; set load_in_8bit: false"
            )
        lines.append(f"{name}: {fill(part, tensors, path)}")
    return lines


def unwrapped(state: State) -> tuple[State, str]:
    """The tensors of a whole model without a wrapper's prefix of all names, and that prefix."""
    for prefix in ("", *prefixes_of(state)):
        inner = without_prefix(state, prefix)
        if any(name.startswith(RELEASED) for name in inner):
            return inner, prefix
    return state, ""


def split(state: State) -> dict[str, State]:
    """The tensors by role (image, audio, language, bridge), with their released names."""
    sides: dict[str, State] = {}
    for key, value in state.items():
        role = next((role for role, prefixes in _PREFIXES.items() if key.startswith(prefixes)), "bridge")
        sides.setdefault(role, {})[key] = value
    return sides


def _part(model: ChatModel, role: str) -> tuple[str, Component | None]:
    if role == "language":
        return "language", model.language
    routes = model.config.routes
    if role == "bridge":
        route = model.config.image_route
        return f"bridges.{route.bridge}", cast("Component", model.bridges[route.bridge])
    if role not in routes:
        return role, None
    return f"encoders.{routes[role].encoder}", cast("Component", model.encoders[routes[role].encoder])
