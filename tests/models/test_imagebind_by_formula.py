"""Each trunk of ImageBind against its formula in float64, from weights by their released names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.models.encoders._imagebind_sizes import (
    AudioSizes,
    DepthSizes,
    ImuSizes,
    TextSizes,
    ThermalSizes,
    VisionSizes,
)
from chatbridge.models.encoders.imagebind import ImageBind
from chatbridge.models.loading import load_component
from tests.parity.weight_files import released_file

WIDTH, HEADS, OUT, LOG_SCALE = 24, 3, 10, 2.0
SIZES = {"width": WIDTH, "depth": 2, "heads": HEADS}
CONFIG = ImageBind.Config(
    out_width=OUT, text_trunk=True, vision=VisionSizes(**SIZES, image_size=21, patch_size=7),
    audio=AudioSizes(**SIZES, mel_bins=20, frames=26, patch_size=8, stride=6),
    depth=DepthSizes(**SIZES, image_size=16, patch_size=8), thermal=ThermalSizes(**SIZES, image_size=16, patch_size=8),
    imu=ImuSizes(**SIZES, length=20, window=4), text=TextSizes(**SIZES, context_length=7, vocabulary=30),
)  # fmt: skip
MEDIA = {"image": (3, 21, 21), "video": (3, 2, 21, 21), "audio": (1, 20, 26), "depth": (1, 16, 16),
         "thermal": (1, 16, 16), "imu": (6, 20)}  # fmt: skip
STEMS = {"vision": (3, 2, 7, 7), "audio": (1, 8, 8), "depth": (1, 8, 8), "thermal": (1, 8, 8), "imu": (24,)}
NUM_TOKENS = {"vision": 10, "audio": 13, "depth": 5, "thermal": 5, "imu": 6, "text": 7}
STEM_NAMES = {"vision": "rgbt_stem.proj.1", "depth": "depth_stem.proj", "imu": "imu_stem.proj"}


def released(trunk: str, log_scale: float = LOG_SCALE) -> dict[str, Tensor]:
    """Random weights of a trunk by their released names."""
    before, head = f"modality_preprocessors.{trunk}", f"modality_heads.{trunk}"
    stem = f"{before}.{STEM_NAMES.get(trunk, 'rgbt_stem.proj')}"
    positions = "pos_embed" if trunk in ("text", "imu") else "pos_embedding_helper.pos_embed"
    shapes: dict[str, tuple[int, ...]] = {f"{before}.{positions}": (1, NUM_TOKENS[trunk], WIDTH)}
    norms = [f"{head}.proj.0" if trunk == "text" else f"{head}.0"]
    if trunk == "text":
        shapes |= {f"{before}.token_embedding.weight": (30, WIDTH), f"{head}.proj.1.weight": (OUT, WIDTH)}
    else:
        shapes |= {f"{before}.cls_token": (1, 1, WIDTH), f"{stem}.weight": (WIDTH, *STEMS[trunk])}
        shapes[f"{head}.{3 if trunk == 'imu' else 2}.weight"] = (OUT, WIDTH)
    if trunk == "vision":
        norms.append("modality_trunks.vision.pre_transformer_layer.0")
    elif trunk != "text":
        norms.append(stem.replace("proj", "norm_layer"))
    for number in range(2):
        block = f"modality_trunks.{trunk}.blocks.{number}"
        norms += [f"{block}.norm_1", f"{block}.norm_2"]
        for name, rows, columns in (("attn.in_proj_", 3, 1), ("attn.out_proj.", 1, 1), ("mlp.fc1.", 4, 1),
                                    ("mlp.fc2.", 1, 4)):  # fmt: skip
            shapes |= {f"{block}.{name}weight": (rows * WIDTH, columns * WIDTH), f"{block}.{name}bias": (rows * WIDTH,)}
        if trunk not in ("vision", "text"):
            shapes |= {f"{block}.attn.bias_{one}": (1, 1, WIDTH) for one in "kv"}
    shapes |= {f"{norm}.{part}": (WIDTH,) for norm in norms for part in ("weight", "bias")}
    random = torch.Generator().manual_seed(len(trunk))
    made = {name: 0.4 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    if trunk != "vision":
        made[f"modality_postprocessors.{trunk}.1.log_logit_scale"] = torch.tensor(log_scale)
    return made


def formula(weights: dict[str, Tensor], trunk: str, media: Tensor) -> Tensor:
    """The feature of media, float64[M, OUT]."""
    w = {name: value.double() for name, value in weights.items()}
    before, head = f"modality_preprocessors.{trunk}", f"modality_heads.{trunk}"
    stem = f"{before}.{STEM_NAMES.get(trunk, 'rgbt_stem.proj')}"
    mask = torch.zeros((), dtype=torch.float64)
    if trunk == "text":
        x = w[f"{before}.token_embedding.weight"][media] + w[f"{before}.pos_embed"]
        mask = torch.full((7, 7), -math.inf, dtype=torch.float64).triu(1)
    else:
        x = patches(w, trunk, stem, media.double())
        if trunk != "vision":
            x = norm(x, w, stem.replace("proj", "norm_layer"), 1e-5)
        positions = "pos_embed" if trunk == "imu" else "pos_embedding_helper.pos_embed"
        x = torch.cat([w[f"{before}.cls_token"].expand(len(x), -1, -1), x], 1) + w[f"{before}.{positions}"]
    if trunk == "vision":
        x = norm(x, w, "modality_trunks.vision.pre_transformer_layer.0")
    for number in range(2):
        block = f"modality_trunks.{trunk}.blocks.{number}"
        x = x + attended(norm(x, w, f"{block}.norm_1"), w, f"{block}.attn", mask)
        y = F.gelu(F.linear(norm(x, w, f"{block}.norm_2"), w[f"{block}.mlp.fc1.weight"], w[f"{block}.mlp.fc1.bias"]))
        x = x + F.linear(y, w[f"{block}.mlp.fc2.weight"], w[f"{block}.mlp.fc2.bias"])
    if trunk == "text":
        x = norm(x[torch.arange(len(x)), media.argmax(1)], w, f"{head}.proj.0") @ w[f"{head}.proj.1.weight"].T
    else:
        x = norm(x[:, 0], w, f"{head}.0") @ w[f"{head}.{3 if trunk == 'imu' else 2}.weight"].T
    scale = w.get(f"modality_postprocessors.{trunk}.1.log_logit_scale")
    return x / x.norm(dim=1, keepdim=True) * (1.0 if scale is None else min(float(scale.exp()), 100.0))


def patches(w: dict[str, Tensor], trunk: str, stem: str, media: Tensor) -> Tensor:
    kernel = w[f"{stem}.weight"]
    if trunk == "imu":  # windows of 4 readings, one channel after the other
        windows = torch.stack([media[:, :, at : at + 4].flatten(1) for at in range(0, 20, 4)], 1)
        return windows @ kernel.T
    if trunk == "vision":
        media = media if media.ndim == 5 else torch.stack([media, media], 2)
        return F.conv3d(media, kernel, stride=(2, 7, 7)).flatten(2).transpose(1, 2)
    return F.conv2d(media, kernel, stride=6 if trunk == "audio" else 8).flatten(2).transpose(1, 2)


def norm(x: Tensor, w: dict[str, Tensor], name: str, eps: float = 1e-6) -> Tensor:
    return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps)


def attended(x: Tensor, w: dict[str, Tensor], name: str, mask: Tensor) -> Tensor:
    q, k, v = F.linear(x, w[f"{name}.in_proj_weight"], w[f"{name}.in_proj_bias"]).chunk(3, -1)
    if f"{name}.bias_k" in w:
        k, v = (
            torch.cat([one, w[f"{name}.bias_{part}"].expand(len(x), -1, -1)], 1) for one, part in ((k, "k"), (v, "v"))
        )
    q, k, v = (one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in (q, k, v))
    y = (q @ k.mT / math.sqrt(WIDTH / HEADS) + mask).softmax(-1) @ v
    return F.linear(y.transpose(1, 2).flatten(2), w[f"{name}.out_proj.weight"], w[f"{name}.out_proj.bias"])


def loaded(weights: dict[str, Tensor], *modalities: str) -> ImageBind:
    encoder = ImageBind(CONFIG, frozenset(modalities)).eval()
    with released_file(weights, is_flat=True) as path:
        load_component(encoder, path)
    return encoder


@pytest.mark.parametrize("modality", MEDIA)
def test_features(modality: str) -> None:
    """Fails when a stem, the extra key or value, a norm, the order of IMU's channels, the head or a scale of the file
    is read or used otherwise."""
    trunk = "vision" if modality in ("image", "video") else modality
    weights = released(trunk) | released("text")
    media = torch.randn(2, *MEDIA[modality], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = loaded(weights, modality)(media, modality).x[:, 0]
    torch.testing.assert_close(got.double(), formula(weights, trunk, media), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("log_scale", [LOG_SCALE, 6.0])
def test_features_of_texts(log_scale: float) -> None:
    """Fails when another token than the one with the largest id is read, the mask is lost, or a scale passes 100."""
    weights = released("text", log_scale)
    ids = torch.tensor([[28, 3, 29, 0, 0, 0, 0], [28, 5, 6, 7, 8, 9, 29]])
    with torch.no_grad():
        got = loaded(weights).encode_text(ids)
    torch.testing.assert_close(got.double(), formula(weights, "text", ids), atol=1e-4, rtol=1e-5)
