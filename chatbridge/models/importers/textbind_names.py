"""The names of TextBind's released weights, with and without the prefix of a wrapper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chatbridge.models.importers.chatbind_names import HEAD, LANGUAGE
from chatbridge.models.weight_files import prefixes_of

QFORMER = ("query_tokens", "qformer", "qformer_projection")
LM = "language_model"
PARTS = (*QFORMER, LM)  # first components of all names
TOKENS = ("<image>", "<start>", "<end>")  # in the order of their rows
_WHOLE_BLIP2 = ("vision_model", "language_projection")


def is_textbind(state: Mapping[str, Any]) -> bool:
    """Whether the names of a file are those of TextBind's weights, or of BLIP-2's in transformers."""
    return wrapper_of(state) is not None


def wrapper_of(names: Iterable[str]) -> str | None:
    """The prefix that a wrapper put before all names of such a file, "" for none; None for another kind of file."""
    names = list(names)
    for prefix in ("", *prefixes_of(names)):
        inner = [name.removeprefix(prefix) for name in names]
        if any(name.startswith((f"{QFORMER[2]}.", f"{LM}.model.", f"{QFORMER[1]}.encoder.layer.")) for name in inner):
            return None if any(name.startswith(("queries.", "output.")) for name in inner) else prefix  # a file of ours
    return None


def parts_of(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """First component -> the tensors by their names without a wrapper's prefix.

    raises   ValueError with the names of tensors of no part, and of parts that are missing
    """
    prefix = wrapper_of(state) or ""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        short = name.removeprefix(prefix)
        parts.setdefault(short.partition(".")[0], {})[short] = value
    if found := [part for part in _WHOLE_BLIP2 if part in parts]:
        raise ValueError(
            f"is a whole BLIP-2 (it has {found[0]}.*), not TextBind's; set model.encoders.NAME.weights and "
            "model.bridges.NAME.weights to it, which read their parts"
        )
    if unknown := [name for part, own in parts.items() if part not in PARTS for name in own]:
        raise ValueError(
            f"has {len(unknown)} unexpected tensors: {', '.join(unknown[:5])}; expected names beginning with "
            f"{', '.join(PARTS)}"
        )
    wanted = QFORMER if LM in parts else QFORMER[:2]
    if missing := [part for part in wanted if part not in parts]:
        raise ValueError(f"lacks {', '.join(missing)}, so it is incomplete")
    return parts


def language_names(own: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of the language model by their names without language_model. and model.: layers.0.mlp...

    raises   ValueError for unexpected tensors, and without embedding or head
    """
    named = {name.removeprefix(f"{LM}.").removeprefix("model."): value for name, value in own.items()}
    known = ("embed_tokens.weight", HEAD)
    if unknown := [name for name in named if name not in known and not name.startswith(LANGUAGE)]:
        raise ValueError(f"has {len(unknown)} unexpected tensors of {LM}: {', '.join(unknown[:5])}")
    if missing := [name for name in known if name not in named]:
        raise ValueError(f"lacks {', '.join(missing)} of {LM}, so it is incomplete")
    return named
