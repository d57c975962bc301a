"""The names of ChatBind's released weights, with and without the prefix of a wrapper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from chatbridge.models.component import State

_PROJECTOR = re.compile(r"^(.*\.)?mm_projector\.")
EMBEDDINGS, HEAD = ("embed_tokens.weight", "embed_in.weight"), "lm_head.weight"
LANGUAGE = ("layers.", "norm.")


def is_chatbind(state: Mapping[str, Any]) -> bool:
    """Whether the names of a file are those of ChatBind's weights."""
    return any(_PROJECTOR.match(name) for name in state)


def has_language(names: Iterable[str]) -> bool:
    """Whether names of a file, released or of `released_names`, include layers of the language model."""
    return any(re.match(r"(.*\.)?layers\.\d+\.", name) for name in names)


def released_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by name without `model.` and without a wrapper's prefix: mm_projector.weight, layers.0.mlp...

    raises   ValueError when some names are not below the prefix of the projector
    """
    found = next(match for name in state if (match := _PROJECTOR.match(name)))
    outer = (found[1] or "").removesuffix("model.")
    if other := [name for name in state if not name.startswith(outer)]:
        raise ValueError(f"the projector's name begins with {outer!r}, but {len(other)} others do not: {other[0]}")
    return {name.removeprefix(outer).removeprefix("model."): value for name, value in state.items()}


def projection(named: State) -> State:
    """The projector [...] by our names, from the tensors of `released_names`."""
    return {key.replace("mm_projector.", "output."): value for key, value in named.items() if "mm_projector." in key}


def embedding_of(named: Mapping[str, Tensor]) -> Tensor | None:
    """The embedding float[R, D] among the tensors of `released_names`."""
    return next((named[name] for name in EMBEDDINGS if name in named), None)


def check_names(named: Mapping[str, Tensor], is_whole: bool) -> None:
    """Check that a file has all tensors [...] of its kind, and no others.

    raises   ValueError with their names
    """
    if deeper := [name for name in named if re.match(r"mm_projector\.\d", name)]:
        raise ValueError(f"holds a projector of several layers ({deeper[0]}), as later LLaVA has; ChatBind's is linear")
    known = {"mm_projector.weight", "mm_projector.bias", *EMBEDDINGS, *([HEAD] if is_whole else [])}
    unknown = [name for name in named if name not in known and not (is_whole and name.startswith(LANGUAGE))]
    if unknown:
        raise ValueError(f"has {len(unknown)} unexpected tensors: {', '.join(unknown[:10])}")
    embedding, wanted = embedding_of(named), {"mm_projector.weight", "mm_projector.bias"}
    missing = [name for name in sorted(wanted | ({HEAD} if is_whole else set())) if name not in named]
    if is_whole and embedding is None:
        missing.append(EMBEDDINGS[0])
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}, so it is incomplete")
