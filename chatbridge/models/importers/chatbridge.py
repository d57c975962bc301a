"""Checkpoints as the released ChatBridge and MiniGPT-4 write them: one flat state dict of the whole model.

Whole-model files hold everything, trainable-only files what was trained; a part without a single tensor in the file
keeps what it has. What a file says about a part must fill it, as with a file of its own.
"""

from __future__ import annotations

from pathlib import Path

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
    """Fill a ChatModel from a released checkpoint file.

    returns  a line per part, for people
    raises   ValueError when a tensor of the file has no place, or a part is filled in part only
    """
    path = Path(path)
    return fill_from_released(model, unwrapped(read_state(path))[0], path)


def fill_from_released(model: ChatModel, state: State, path: Path) -> list[str]:
    """`load_chatbridge` for tensors that are read already."""
    lines = []
    for role, tensors in split(state).items():
        if role == "language" and all(key.endswith("rotary_emb.inv_freq") for key in tensors):
            lines.append(f"dropped: {len(tensors)} tensors of the language model (buffers that follow from the sizes)")
            continue
        name, part = _part(model, role)
        if part is None:
            raise ValueError(f"{path} has tensors of the {role} side ({next(iter(tensors))}), which this model lacks")
        if role == "language" and getattr(getattr(part, "lm", None), "is_loaded_in_8bit", False):
            raise ValueError(f"{path} brings a language model, which cannot replace one in 8 bit: low_resource: false")
        lines.append(f"{name}: {fill(part, tensors, path)}")
    return lines


def unwrapped(state: State) -> tuple[State, str]:
    """Tensors of a whole model without the prefix that a wrapper put before all of their names, and that prefix."""
    for prefix in ("", *prefixes_of(state)):
        inner = without_prefix(state, prefix)
        if any(name.startswith(RELEASED) for name in inner):
            return inner, prefix
    return state, ""


def split(state: State) -> dict[str, State]:
    """The tensors of each side, with their released names: image, audio, language and bridge."""
    sides: dict[str, State] = {}
    for key, value in state.items():
        role = next((role for role, prefixes in _PREFIXES.items() if key.startswith(prefixes)), "bridge")
        sides.setdefault(role, {})[key] = value
    return sides


def _part(model: ChatModel, role: str) -> tuple[str, Component | None]:
    if role == "language":
        return "language", model.language
    ways = model.config.routes
    if role == "bridge":
        way = ways.get("image") or next(iter(ways.values()))
        return f"bridges.{way.bridge}", model.bridges[way.bridge]
    if role not in ways:
        return role, None
    return f"encoders.{ways[role].encoder}", model.encoders[ways[role].encoder]
