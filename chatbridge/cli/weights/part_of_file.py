"""Which part of a model a released file contains, according to the names of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.models.bridges import BRIDGES
from chatbridge.models.encoders import ENCODERS
from chatbridge.models.encoders._clip_names import is_clip_vision
from chatbridge.models.importers.chatbind_names import has_language, is_chatbind
from chatbridge.models.importers.flamingo_names import is_flamingo
from chatbridge.models.importers.minigpt4 import buffer_reason
from chatbridge.models.importers.textbind_names import LM, is_textbind
from chatbridge.models.language import LANGUAGES
from chatbridge.models.lazy_tensors import LazyTensors
from chatbridge.models.weight_files import prefixes_of

BEGINNINGS = {  # --part -> how names of its tensors begin, in a file of it alone or of a whole model
    "eva_vit": ("visual_encoder.", "patch_embed.proj.", "cls_token", "vit.", "vision_model.", "embeddings.class_emb"),
    "beats": ("audio_encoder.", "post_extract_proj.", "patch_embedding."),
    "imagebind": ("modality_trunks.", "trunks."),
    "qformer": ("Qformer.", "bert.encoder.", "qformer."),
    "causal_lm": ("llama_model.", "language_model.", "model.embed_tokens.", "lm."),
}
KINDS = {  # --part -> (registry with the converter, role in a whole checkpoint)
    "eva_vit": (ENCODERS, "image"),
    "beats": (ENCODERS, "audio"),
    "imagebind": (ENCODERS, "image"),
    "qformer": (BRIDGES, "bridge"),
    "linear": (BRIDGES, "bridge"),
    "resampler": (BRIDGES, "bridge"),
    "causal_lm": (LANGUAGES, "language"),
}


def remove_prefix(source: LazyTensors) -> None:
    """Remove a wrapper's prefix of all names, such as DDP's "module.", if the part is recognised without it."""
    for prefix in ("", *prefixes_of(source.headers)):
        try:
            part_of([name.removeprefix(prefix) for name in source.headers])
        except ValueError:
            continue
        if prefix:
            source.remove_prefix(prefix)
            print(f"prefix {prefix!r} of all names removed")
        return


def part_of(names: Sequence[str]) -> str:
    """Return the part that a released file contains, according to its tensor names.

    raises   ValueError if no part or several are recognised
    """
    if is_chatbind(dict.fromkeys(names)):
        if has_language(names):
            raise ValueError(
                "the part to write is unclear: it contains a whole model of ChatBind, which model.language.weights and "
                "run.init_from read as it is; --part linear writes its projector"
            )
        return "linear"
    if is_textbind(dict.fromkeys(names)) and any(LM in name for name in names):
        raise ValueError(
            "the part to write is unclear: it is a file of TextBind or BLIP-2 with several parts, which the settings "
            "of the parts (of TextBind run.init_from) read as it is; --part qformer writes its Q-Former, and of BLIP-2 "
            "--part eva_vit its vision model"
        )
    if is_flamingo(names):
        raise ValueError(
            "the part to write is unclear: it is a file of OpenFlamingo or Multimodal-GPT with several parts, which "
            "model.weights (of adapters run.init_from) reads as it is; --part resampler writes its resampler"
        )
    if is_clip_vision(names):
        return "clip"
    real = [name for name in names if buffer_reason(name) is None]
    found = [kind for kind, beginnings in BEGINNINGS.items() if any(name.startswith(beginnings) for name in real)]
    if not found and any(name.startswith("llama_proj.") for name in real):
        found = ["linear"]
    if len(found) == 1:
        return found[0]
    what = f"it contains {' and '.join(found)}" if found else "its tensor names are not known"
    raise ValueError(f"the part to write is unclear: {what}; set --part {'|'.join(KINDS)}, or none to keep all names")


__all__ = ["KINDS", "part_of", "remove_prefix"]
