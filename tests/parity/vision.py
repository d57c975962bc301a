"""EVA-ViT, its position table at other sizes, and the final norm."""

from __future__ import annotations

from typing import Any

import torch

from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.loading import load_component
from tests.parity.golden import Check
from tests.parity.weight_files import hooked, other_eps, released_file


def eva_settings(sizes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Convert the reference's names of sizes to ours."""
    return {
        "width": sizes["embed_dim"], "depth": sizes["depth"], "heads": sizes["num_heads"],
        "mlp_ratio": sizes["mlp_ratio"], "image_size": sizes["img_size"], "patch_size": sizes["patch_size"], **more,
    }  # fmt: skip


def eva_vit(check: Check) -> None:
    """Tokens, patches and the state after every block, from weights read as eva_vit_g.pth is."""
    golden = check.golden
    with released_file(golden.weights) as path:
        encoder = EvaViT(EvaViT.Config(**eva_settings(golden.config, norm=False))).eval()
        load_component(encoder, path)
    other_eps(encoder.vit, golden.config.get("norm_eps"), released=1e-6)
    seen = hooked({f"block{i}": block for i, block in enumerate(encoder.vit.blocks)})
    with torch.no_grad():
        seen["tokens"] = encoder(golden.inputs["image"], "image").x
        seen["patch_embed"] = encoder.vit.patch_embed(golden.inputs["image"])
    seen["pos_embed"] = encoder.vit.pos_embed
    for name in golden.outputs:
        if name in seen:
            check.close(name, seen[name])


def ln_vision(check: Check) -> None:
    """Compare the norm alone, read from a file with other tensors too (blip2_pretrained_*.pth)."""
    golden = check.golden
    width = golden.config["dim"]
    config = EvaViT.Config(width=width, depth=1, heads=1, mlp_ratio=1.0, image_size=2, patch_size=1)
    encoder = EvaViT(config).eval()
    with released_file({f"ln_vision.{name}": value for name, value in golden.weights.items()}) as path:
        load_component(encoder, path, ("norm.",))
    other_eps(encoder.norm, golden.config.get("eps"), released=1e-5)
    for name, x in golden.inputs.items():
        output = "y" + name.removeprefix("x")
        if output in golden.outputs:
            got = encoder.norm(x)
            check.equal(f"{output}: dtype", got.dtype, golden.outputs[output].dtype)
            check.close(output, got)
