"""Tensor names of released Q-Former files (BLIP-2, MiniGPT-4, ChatBridge), converted to ours.

Tensors of one modality get its name here (`queries.image`); the bridge replaces it by the name of the query set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

_MODALITY = {  # released name -> ours, and a function that removes the extra axes
    "query_tokens": ("queries.image", lambda x: x[0]),  # [1, K, W] -> [K, W]
    "image_query_tokens": ("queries.image", lambda x: x[0]),
    "audio_query_tokens": ("queries.audio", lambda x: x[0]),
    "visual_temporal_pos_embeds": ("temporal.image", lambda x: x[0, :, 0]),  # [1, T, 1, W] -> [T, W]
    "audio_temporal_pos_embeds": ("temporal.audio", lambda x: x[0, :, 0]),
}
_RENAMES = (
    (r"^audio_trans\.", "adapters.audio."),
    (r"^llama_proj\.", "output."),
    (r"^(?:Qformer\.)?bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^(?:Qformer\.)?bert\.(encoder\.layer\.\d+\.(?:cross)?attention\.)self\.", r"qformer.\1attention."),
    (r"^(?:Qformer\.)?bert\.", "qformer."),
)
_UNWANTED = (
    (r"^(?:Qformer\.)?bert\.embeddings\.(word_embeddings|position_embeddings)\.", "text branch, not used"),
    (r"^(?:Qformer\.)?bert\.embeddings\.position_ids$", "buffer of the text branch, not used"),
    (r"^(?:Qformer\.)?bert\.encoder\.layer\.\d+\.(intermediate|output)\.", "text branch, not used"),
    (r"^(?:Qformer\.)?cls\.", "head of the text branch, not used"),
    (r"^t5_proj\.", "projection to another language model"),
    (r"^(visual_encoder|ln_vision|audio_encoder|ln_audio)\.", "belongs to an encoder"),
    (r"^llama_model\.", "belongs to the language model"),
)


def rename_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename released tensors; our names, unused and unknown ones stay as they are.

    state    released name -> tensor; queries float[1, K, W], temporal embeddings float[1, T, 1, W]
    returns  our name -> tensor; queries float[K, W], temporal embeddings float[T, W]
    raises   ValueError if two tensors get the same name
    source   salesforce/LAVIS: lavis/models/blip2_models/Qformer.py, for files such as blip2_pretrained_flant5xxl.pth
    """
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        name, reshape = _renamed(key)
        if name in ours:
            raise ValueError(f"two tensors of the file would become {name}; the second is {key}")
        ours[name] = reshape(value)
    return ours


def unwanted(key: str) -> str | None:
    """The reason why a Q-Former bridge does not use a released tensor; None if it does."""
    return next((reason for pattern, reason in _UNWANTED if re.match(pattern, key)), None)


def _renamed(key: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    if key in _MODALITY:
        return _MODALITY[key]
    if unwanted(key) is None:
        for pattern, replacement in _RENAMES:
            name, count = re.subn(pattern, replacement, key)
            if count:
                return name, lambda x: x
    return key, lambda x: x
