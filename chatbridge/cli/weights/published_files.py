"""The published files of the shipped models: sources, sizes and licences.

Sizes are those of the published files, if known. Licences are pointers, not advice: read the terms of the source.
"""

from __future__ import annotations

from dataclasses import dataclass

_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"


@dataclass(frozen=True)
class PublishedFile:
    """A published file, recognised by words in its name."""

    name: str
    source: str
    licence: str
    bytes: int | None = None
    words: tuple[str, ...] = ()  # all must be in the name, lower case


_BLIP2 = "BSD-3-Clause (salesforce/LAVIS)"
_LLAMA = "LLaMA licence (non-commercial)"
_DELTA = "LLaMA-{0} plus https://huggingface.co/lmsys/vicuna-{0}-delta-v0, combined by weights apply-delta"
PUBLISHED = (
    PublishedFile("eva_vit_g.pth", f"{_LAVIS}eva_vit_g.pth", _BLIP2, 2_030_000_000, ("eva_vit_g",)),
    PublishedFile(
        "BLIP-2", f"{_LAVIS}blip2_pretrained_flant5xxl.pth", _BLIP2, 433_000_000, ("blip2_pretrained_flant5xxl",)
    ),
    PublishedFile(
        "BEATs", "https://github.com/microsoft/unilm/tree/master/beats", "MIT", 361_000_000, ("beats_iter3",)
    ),
    PublishedFile(
        name="Llama-2-7b-chat",
        source="https://huggingface.co/meta-llama/Llama-2-7b-chat-hf",
        licence="Llama 2 community licence",
        bytes=13_500_000_000,
        words=("llama-2-7b",),
    ),
    PublishedFile("Vicuna-13B v0", _DELTA.format("13b"), _LLAMA, 26_000_000_000, ("vicuna", "13b")),
    PublishedFile("Vicuna-7B v0", _DELTA.format("7b"), _LLAMA, 13_500_000_000, ("vicuna", "7b")),
    PublishedFile(
        "MiniGPT-4 projection", "https://github.com/Vision-CAIR/MiniGPT-4", "BSD-3-Clause", None, ("minigpt4",)
    ),
)


def published_file(text: str) -> PublishedFile | None:
    """Return the published file that a path or a comment mentions."""
    lower = text.lower()
    return next((one for one in PUBLISHED if all(word in lower for word in one.words)), None)
