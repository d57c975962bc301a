"""The trunks of ImageBind, and the feature that ChatBind takes, from weights read as imagebind_huge.pth is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chatbridge.models.bridges.linear import Linear
from chatbridge.models.config import PiecesConfig
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
from chatbridge.models.routes import Route
from tests.parity.golden import Check, Golden
from tests.parity.weight_files import hooked, released_file


def blocks(sizes: dict[str, Any]) -> dict[str, int]:
    """Convert the reference's names of sizes to ours."""
    return {"width": sizes["embed_dim"], "depth": sizes["num_blocks"], "heads": sizes["num_heads"]}


def vision_sizes(config: dict[str, Any], **more: Any) -> VisionSizes:
    sizes = {"image_size": config["image_size"], "patch_size": config["kernel_size"][-1]}
    return VisionSizes(**{**blocks(config.get("vision", config)), **sizes, **more})


def audio_sizes(config: dict[str, Any]) -> AudioSizes:
    return AudioSizes(
        **blocks(config), mel_bins=config["num_mel_bins"], frames=config["target_len"],
        patch_size=config["kernel_size"], stride=config["stride"],
    )  # fmt: skip


def loaded(golden: Golden, *modalities: str, **sizes: Any) -> ImageBind:
    """The encoder of these modalities from the case's weights, which a file in the released layout holds."""
    config = ImageBind.Config(out_width=golden.config["out_embed_dim"], **sizes)
    encoder = ImageBind(config, frozenset(modalities)).eval()
    with released_file(golden.weights, is_flat=True) as path:
        load_component(encoder, path)
    return encoder


def trunk_states(encoder: ImageBind, modality: str, media: Tensor) -> dict[str, Tensor]:
    """The states that a golden records: tokens, each block, trunk, head, and the feature (`post`)."""
    trunk = encoder.trunk(modality)
    seen = hooked({f"block_{i}": block for i, block in enumerate(trunk.blocks)} | {"head": trunk.head})
    with torch.no_grad():
        seen["post"] = encoder.encode_text(media) if modality == "text" else encoder(media, modality).x[:, 0]
        seen["trunk"] = seen[f"block_{len(trunk.blocks) - 1}"]
        seen["tokens"] = trunk.tokens(media)
    return seen


def compare(check: Check, prefix: str, states: dict[str, Tensor]) -> None:
    for name, value in states.items():
        if f"{prefix}.{name}" in check.golden.outputs:
            check.close(f"{prefix}.{name}", value, features=True)


def routed(encoder: ImageBind, modality: str, media: Tensor) -> Tensor:
    """What a route with `merge: mean` gives the language model if its bridge passes features on, float[M, 1, W]."""
    bridge = Linear(Linear.Config(), {modality: encoder.width}, encoder.width)
    bridge.load_state_dict({"output.weight": torch.eye(encoder.width), "output.bias": torch.zeros(encoder.width)})
    has_pieces = media.ndim > encoder.axes(modality)
    pieces = PiecesConfig(count=media.shape[1], merge="mean") if has_pieces else PiecesConfig()
    with torch.no_grad():
        return Route(modality, encoder, bridge, pieces).tokens(media)


def vision(check: Check) -> None:
    """Images, clips of two frames, several clips of an item, and images of another size than the position table."""
    golden = check.golden
    for name, media in golden.inputs.items():
        encoder = loaded(golden, "image", vision=vision_sizes(golden.config, image_size=media.shape[-1]))
        if media.ndim == 6:
            check.close(f"{name}.forward", routed(encoder, "video", media)[:, 0], features=True)
        else:
            compare(check, name, trunk_states(encoder, "image" if media.ndim == 4 else "video", media))


def audio(check: Check) -> None:
    """Single clips, and the mean over the clips of an item."""
    golden = check.golden
    encoder = loaded(golden, "audio", audio=audio_sizes(golden.config))
    media = golden.inputs["audio"]
    clips = media.flatten(0, -4)  # of all items; a single clip of each stays as it is
    compare(check, "first2clips", trunk_states(encoder, "audio", clips[:2]))
    check.close("forward", routed(encoder, "audio", media)[:, 0], features=True)


def text(check: Check) -> None:
    """Token ids: the causal mask, the pooled end token, and the clamp of the learned scale."""
    golden = check.golden
    sizes = TextSizes(
        **blocks(golden.config), context_length=golden.config["context_length"], vocabulary=golden.config["vocab_size"]
    )
    encoder = loaded(golden, text=sizes, text_trunk=True)
    compare(check, "text", trunk_states(encoder, "text", golden.inputs["text"]))


def depth_thermal_imu(check: Check) -> None:
    """The three smaller trunks from one file, or those of them that it has; several pieces of an item too."""
    golden, config = check.golden, check.golden.config
    names = [name for name in ("depth", "thermal", "imu") if name in golden.inputs]
    sizes: dict[str, Any] = {}
    for name, kind in (("depth", DepthSizes), ("thermal", ThermalSizes)):
        if name in names:
            sides = {"image_size": config["image_size"], "patch_size": config["kernel_size"]}
            sizes[name] = kind(**blocks(config[name]), **sides)
    if "imu" in names:
        sizes["imu"] = ImuSizes(**blocks(config["imu"]), length=config["imu_length"], window=config["imu_kernel"])
    encoder = loaded(golden, *names, **sizes)
    for name in names:
        media = golden.inputs[name]
        if media.ndim == encoder.axes(name):
            compare(check, name, trunk_states(encoder, name, media))
        else:
            check.close(f"{name}.forward", routed(encoder, name, media)[:, 0], features=True)


def chatbind_encoder(check: Check) -> None:
    """ChatBind's one feature per sample, from both of its code variants."""
    golden = check.golden
    sizes = {"vision": vision_sizes(golden.config), "audio": audio_sizes(golden.config["audio"])}
    encoder = loaded(golden, "image", "video", "audio", **sizes)
    for output in golden.outputs:
        media = golden.inputs[name := output.split(".")[-1]]
        modality = "audio" if name == "audio" else "image" if media.ndim == 4 else "video"
        check.close(output, routed(encoder, modality, media), features=True)
