"""The published files of the shipped models: sources, sizes and licences.

Sizes are those of the published files, if known. Licences are pointers, not advice: read the terms of the source.
"""

from __future__ import annotations

from dataclasses import dataclass

_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"


@dataclass(frozen=True)
class PublishedFile:
    """A published file or repository, recognised by words in its name.

    is_gated   whether the terms must be accepted on its page before it can be downloaded
    """

    name: str
    source: str
    licence: str
    bytes: int | None = None
    words: tuple[str, ...] = ()  # all must be in the name, lower case
    is_gated: bool = False

    @property
    def is_file(self) -> bool:
        """Whether the source is the address of the file itself, not of a page about it."""
        return self.source.startswith("https://") and self.source.endswith((".pth", ".pt", ".bin", ".safetensors"))


_BLIP2 = "BSD-3-Clause (salesforce/LAVIS)"
_BLIP2_HUB, _BLIP2_HUB_TERMS = "https://huggingface.co/Salesforce/blip2-flan-t5-xxl", "MIT (Salesforce)"
_LLAMA = "LLaMA licence (non-commercial)"
_OPENFLAMINGO = "https://huggingface.co/openflamingo/OpenFlamingo-9B-deprecated"
_CHATBIND = "https://huggingface.co/dreamerlin/chatbind-7b"
_CHATBIND_TERMS = "research only; LLaMA licence (non-commercial), and those of Vicuna's and LLaVA's data"
_STABILITY = "https://huggingface.co/stabilityai"
_OPEN_RAIL = "CreativeML Open RAIL++-M (use restrictions)"
_DELTA = "LLaMA-{0} plus https://huggingface.co/lmsys/vicuna-{0}-delta-v0, combined by weights apply-delta"
PUBLISHED = (
    PublishedFile("eva_vit_g.pth", f"{_LAVIS}eva_vit_g.pth", _BLIP2, 2_030_000_000, ("eva_vit_g",)),
    PublishedFile(
        "BLIP-2", f"{_LAVIS}blip2_pretrained_flant5xxl.pth", _BLIP2, 433_000_000, ("blip2_pretrained_flant5xxl",)
    ),
    PublishedFile(
        "BEATs", "https://github.com/microsoft/unilm/tree/master/beats", "MIT", 361_000_000, ("beats_iter3",)
    ),
    PublishedFile(  # 105,162,240 values in fp32
        name="BLIP-2's Q-Former, as TextBind starts",
        source=f"a part of {_BLIP2_HUB}: weights convert FOLDER blip2_qformer.safetensors --part qformer",
        licence=_BLIP2_HUB_TERMS,
        bytes=421_000_000,
        words=("blip2_qformer",),
    ),
    PublishedFile(  # 6,846,752,256 values in fp32
        name="TextBind",
        source="https://huggingface.co/SihengLi/TextBind (second_stage_model.pt)",
        licence="research; Llama 2 community licence, and those of its data",
        bytes=27_387_000_000,
        words=("second_stage_model",),
    ),
    PublishedFile(  # only the shards with vision_model.* and qformer.* are needed
        name="BLIP-2 of the Hugging Face hub",
        source=_BLIP2_HUB,
        licence=_BLIP2_HUB_TERMS,
        words=("blip2-flan-t5-xxl",),
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
    PublishedFile(  # 1,200,781,057 values in fp32
        name="ImageBind-Huge",
        source="https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
        licence="CC BY-NC-SA 4.0 (facebookresearch/ImageBind)",
        bytes=4_803_000_000,
        words=("imagebind_huge",),
    ),
    PublishedFile("ChatBind-7B delta", f"{_CHATBIND}-delta", _CHATBIND_TERMS, 13_500_000_000, ("chatbind", "delta")),
    PublishedFile("ChatBind projector", f"{_CHATBIND}-pretrain-projector", _CHATBIND_TERMS, None, ("mm_projector",)),
    PublishedFile(
        "ChatBind projector", f"{_CHATBIND}-pretrain-projector", _CHATBIND_TERMS, None, ("chatbind", "projector")
    ),
    PublishedFile(
        name="ChatBind-7B",
        source=f"LLaMA-7B plus {_CHATBIND}-delta, combined by weights apply-delta",
        licence=_CHATBIND_TERMS,
        bytes=13_500_000_000,
        words=("chatbind-7b",),
    ),
    PublishedFile(
        name="Multimodal-GPT adapters",
        source="https://download.openmmlab.com/mmgpt/v0/mmgpt-lora-v0-release.pt",
        licence="Apache 2.0 (open-mmlab/Multimodal-GPT), trained over LLaMA and OpenFlamingo",
        words=("mmgpt-lora",),
    ),
    PublishedFile(  # 1,309,919,248 values in fp32
        name="OpenFlamingo-9B",
        source=f"{_OPENFLAMINGO} (checkpoint.pt; first published as openflamingo/OpenFlamingo-9B)",
        licence=f"research only; {_LLAMA}",
        bytes=5_240_000_000,
        words=("openflamingo",),
    ),
    PublishedFile(
        name="CLIP ViT-L/14",
        source="https://huggingface.co/openai/clip-vit-large-patch14",
        licence="MIT (openai/CLIP)",
        words=("clip-vit-large-patch14",),
    ),
    PublishedFile(  # the files in fp32 have twice the size
        name="Stable Diffusion XL base 1.0, in fp16",
        source=f"{_STABILITY}/stable-diffusion-xl-base-1.0",
        licence=_OPEN_RAIL,
        bytes=6_938_000_000,
        words=("stable-diffusion-xl-base",),
    ),
    PublishedFile(
        name="Stable Diffusion XL refiner 1.0, in fp16",
        source=f"{_STABILITY}/stable-diffusion-xl-refiner-1.0",
        licence=_OPEN_RAIL,
        bytes=6_080_000_000,
        words=("stable-diffusion-xl-refiner",),
    ),
    PublishedFile(
        "LLaMA-7B",
        "LLaMA-7B of 2023, requested from Meta, converted to Hugging Face form",
        _LLAMA,
        13_500_000_000,
        ("llama-7b",),
    ),
)


_APACHE, _LLAMA3, _DINOV3 = "Apache-2.0", "Llama 3.2 Community License", "DINOv3 License"
_HUB = (  # models of configs/models/modern_*.yaml: bytes as generally known, not verified; licences likewise
    ("google/siglip2-base-patch16-224", _APACHE, 1.5e9),
    ("google/siglip2-so400m-patch14-384", _APACHE, 4.5e9),
    ("facebook/dinov2-base", _APACHE, 0.35e9),
    ("facebook/dinov3-vitb16-pretrain-lvd1689m", _DINOV3, 0.34e9),
    ("openai/whisper-small", _APACHE, 1.0e9),
    ("openai/whisper-large-v3-turbo", "MIT", 1.6e9),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", _APACHE, 0.27e9),
    ("HuggingFaceTB/SmolLM2-360M-Instruct", _APACHE, 0.72e9),
    ("HuggingFaceTB/SmolLM2-1.7B-Instruct", _APACHE, 3.4e9),
    ("HuggingFaceTB/SmolLM3-3B", _APACHE, 6.2e9),
    ("Qwen/Qwen3-0.6B", _APACHE, 1.5e9),
    ("Qwen/Qwen3-1.7B", _APACHE, 4.1e9),
    ("Qwen/Qwen3-4B", _APACHE, 8.1e9),
    ("Qwen/Qwen3-8B", _APACHE, 16.4e9),
    ("meta-llama/Llama-3.2-1B-Instruct", _LLAMA3, 2.5e9),
    ("meta-llama/Llama-3.2-3B-Instruct", _LLAMA3, 6.4e9),
)
PUBLISHED += tuple(
    PublishedFile(
        name=name,
        source=f"https://huggingface.co/{name}",
        licence=licence,
        bytes=int(size),
        words=(name.lower(),),
        is_gated=licence in (_LLAMA3, _DINOV3),
    )
    for name, licence, size in _HUB
)


def published_file(text: str) -> PublishedFile | None:
    """Return the published file that a path or a comment mentions."""
    lower = text.lower()
    return next((one for one in PUBLISHED if all(word in lower for word in one.words)), None)
