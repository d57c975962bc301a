"""Tensor names of released Q-Former files (BLIP-2, MiniGPT-4, ChatBridge, TextBind), converted to ours and back.

Two families: LAVIS (Qformer.bert.*, with a text branch) and transformers (qformer.*), whose layers we have.

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
    (r"^(?:llama_proj|qformer_projection)\.", "output."),
    (r"^(?:Qformer\.)?bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^(?:Qformer\.)?bert\.(encoder\.layer\.\d+\.(?:cross)?attention\.)self\.", r"qformer.\1attention."),
    (r"^(?:Qformer\.)?bert\.", "qformer."),
)
_UNWANTED = (
    (r"^(?:Qformer\.)?bert\.embeddings\.(word_embeddings|position_embeddings)\.", "text branch, not used"),
    (r"^(?:Qformer\.)?bert\.embeddings\.position_ids$", "buffer of the text branch, not used"),
    (r"^(?:(?:Qformer\.)?bert|qformer)\.encoder\.layer\.\d+\.(intermediate|output)\.", "text branch, not used"),
    (r"^embeddings\.(word_embeddings|position_embeddings)\.", "text branch, not used"),
    (r"^(text_projection|vision_projection|itm_head)\.", "head of the text branch, not used"),
    (r"^(?:Qformer\.)?cls\.", "head of the text branch, not used"),
    (r"^(t5_proj|opt_proj|language_projection)\.", "projection to another language model"),
    (r"^(visual_encoder|ln_vision|audio_encoder|ln_audio|vision_model)\.", "belongs to an encoder"),
    (r"^(llama_model|language_model)\.", "belongs to the language model"),
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


def to_released(state: Mapping[str, Tensor], names: str) -> dict[str, Tensor]:
    """The tensors of a Q-Former bridge by released names, without those of another kind of model.

    state    our name -> tensor; queries float[K, W]
    names    huggingface (query_tokens, qformer.*, qformer_projection.*) or lavis (Qformer.bert.*, llama_proj.*)
    returns  released name -> tensor; query_tokens float[1, K, W]
    raises   ValueError for several query sets, or temporal embeddings and adapters, which those models do not have
    """
    queries = [name for name in state if name.startswith("queries.")]
    if len(queries) > 1:
        raise ValueError(f"it has {len(queries)} query sets ({', '.join(queries)}); the {names} layout has one")
    theirs: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith("queries."):
            theirs["query_tokens"] = value[None]
        elif name.startswith("output."):
            theirs[name.replace("output.", "qformer_projection." if names == "huggingface" else "llama_proj.", 1)] = (
                value
            )
        elif name.startswith("qformer."):
            theirs[name if names == "huggingface" else _lavis_name(name)] = value
        else:
            raise ValueError(f"{name} has no place in the {names} layout")
    return theirs


def _lavis_name(name: str) -> str:
    """qformer.encoder.layer.0.attention.attention.query.weight -> Qformer.bert.encoder.layer.0.attention.self..."""
    if name.startswith("qformer.layernorm."):
        return name.replace("qformer.layernorm.", "Qformer.bert.embeddings.LayerNorm.", 1)
    name = re.sub(r"^qformer\.(encoder\.layer\.\d+\.(?:cross)?attention\.)attention\.", r"qformer.\1self.", name)
    return name.replace("qformer.", "Qformer.bert.", 1)
