"""CLIP's vision tower as Flamingo reads it, from weights in open_clip's names."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import CLIPVisionModelWithProjection

from chatbridge.cli.weights.convert import main
from chatbridge.models.encoders.hf_vision import HFVision
from chatbridge.models.loading import load_component
from tests.parity.golden import Check
from tests.parity.weight_files import released_file


def clip(check: Check) -> None:
    """Patch tokens of a tower that is filled directly, the same of a converted folder, and the pooled token there."""
    golden, sizes = check.golden, architecture(check.golden.config)
    image = golden.inputs["image"]
    with TemporaryDirectory(prefix="chatbridge-parity-") as folder, torch.no_grad():
        with released_file(golden.weights, is_flat=True) as path:
            encoder = HFVision(HFVision.Config(architecture=sizes, drop_first=1)).eval()
            load_component(encoder, path)
            with redirect_stdout(io.StringIO()):
                main([str(path), f"{folder}/clip"])
        check.close("tokens", encoder(image).x, features=True)
        target = Path(folder) / "clip"
        heads = {"num_attention_heads": sizes["num_attention_heads"]}  # no tensor tells: a folder has the usual number
        whole: Any = CLIPVisionModelWithProjection.from_pretrained(target, **heads).eval()
        found = whole(image)
        check.close("pooled", found.image_embeds)
        check.near("tokens of the folder", found.last_hidden_state[:, 1:], golden.outputs["tokens"], features=True)


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar's sizes by transformers' names."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": config["width"],
        "intermediate_size": config["width"] * config["mlp_ratio"],
        "num_hidden_layers": config["layers"],
        "num_attention_heads": config["heads"],
        "image_size": config["image_size"],
        "patch_size": config["patch_size"],
        "hidden_act": config["activation"],
    }
