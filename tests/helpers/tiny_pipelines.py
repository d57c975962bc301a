"""Folders of tiny random diffusion pipelines, as `save_pretrained` writes them: like Stable Diffusion, like SDXL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 16  # pixels of their images


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with single characters for a vocabulary."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(one) for one in range(33, 127)]
    words = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def text_encoder(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=190, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=16, bos_token_id=188, eos_token_id=189,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def unet(width: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, sample_size=SIDE // 2, in_channels=4,
        out_channels=4, cross_attention_dim=width, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    ).eval()  # fmt: skip


def safety_checker(rejects: bool) -> dict[str, Any]:
    """The parts of a safety checker that rejects every image, or none."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": SIDE, "patch_size": 8}  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    for name in ("special_care_embeds_weights", "concept_embeds_weights"):
        getattr(checker, name).data.fill_(-2.0 if rejects else 2.0)  # thresholds of a cosine
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return {"safety_checker": checker, "feature_extractor": CLIPImageProcessor(**sizes)}


def tiny_sd(folder: Path, variant: str | None = None, **checker: Any) -> Path:
    """A pipeline like Stable Diffusion 1; `checker`: the parts of `safety_checker`."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text_encoder(), tokenizer=clip_tokenizer(folder / "made"), unet=unet(16),
        scheduler=EulerDiscreteScheduler(steps_offset=1),
        **(checker or {"safety_checker": None, "feature_extractor": None}), requires_safety_checker=bool(checker),
    )  # fmt: skip
    pipe.save_pretrained(folder, variant=variant)
    return folder


def tiny_sdxl(folder: Path) -> tuple[Path, Path]:
    """Folders of a base and a refiner like those of Stable Diffusion XL; the refiner's own second encoder and VAE are
    absent, as in a download of what is needed only."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    torch.manual_seed(0)
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "use_linear_projection": True}
    one, two = clip_tokenizer(folder / "one"), clip_tokenizer(folder / "two")
    common = {"vae": autoencoder(), "text_encoder_2": text_encoder(projected=True), "tokenizer_2": two}
    common["scheduler"] = EulerDiscreteScheduler(steps_offset=1)
    base = StableDiffusionXLPipeline(
        text_encoder=text_encoder(), tokenizer=one, unet=unet(32, projection_class_embeddings_input_dim=40, **sizes),
        **common,
    )  # fmt: skip
    refiner = StableDiffusionXLImg2ImgPipeline(
        text_encoder=None, tokenizer=None, unet=unet(16, projection_class_embeddings_input_dim=36, **sizes),
        requires_aesthetics_score=True, **common,
    )  # fmt: skip
    base.save_pretrained(folder / "base")
    refiner.save_pretrained(folder / "refiner")
    for name in ("vae", "text_encoder_2"):
        for file in (folder / "refiner" / name).iterdir():
            file.unlink()
        (folder / "refiner" / name).rmdir()
    return folder / "base", folder / "refiner"
