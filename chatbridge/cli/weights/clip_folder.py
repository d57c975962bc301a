"""`weights convert SRC FOLDER --part clip`: CLIP's vision tower of OpenAI or open_clip as a folder of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.weights.shard_writer import write_json, write_safetensors
from chatbridge.models.component import State
from chatbridge.models.encoders._clip_names import is_clip_vision, other_reason, tower_names, tower_sizes
from chatbridge.models.lazy_tensors import LazyTensors
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD

ACTIVATIONS = ("quick_gelu", "gelu")
WHOLE = "vision_encoder."  # of a whole Multimodal-GPT
BICUBIC = 3


def write_clip_folder(source: LazyTensors, target: Path, activation: str) -> tuple[int, list[str]]:
    """Write config.json, preprocessor_config.json and model.safetensors.

    activation  of the feed-forward parts, quick_gelu or gelu
    returns     the number of tensors, and the names of tensors that were left out
    raises      ValueError when the file has no such tower, or the folder exists
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"--activation {activation}: expected {' or '.join(ACTIVATIONS)}")
    if target.exists():
        raise ValueError(f"{target} already exists; choose another target")
    if target.suffix:
        raise ValueError(f"{target}: a folder is written, since hf_vision reads one; give a name without an ending")
    names = {name.removeprefix(WHOLE): name for name in source.headers if name.startswith(WHOLE)}
    names = names if is_clip_vision(names) else {name: name for name in source.headers}
    if not is_clip_vision(names):
        raise ValueError(f"{source.path} has no vision tower of CLIP (visual.conv1.weight and so on)")
    parts, others = tower_names({short: source[full] for short, full in names.items() if not _is_text(short)})
    projection = next((source[names[name]] for name in ("visual.proj", "proj") if name in names), None)
    config, state = _as_transformers(parts, projection, activation)
    target.mkdir(parents=True)
    config.save_pretrained(str(target))
    write_json(_preprocessing(config.image_size), target / "preprocessor_config.json")
    write_safetensors(state, target / "model.safetensors")
    left = [name for name in source.headers if name not in names.values() or _is_text(name)]
    return len(state), [*left, *(name for name in others if not name.endswith("proj"))]


def _is_text(name: str) -> bool:
    """Whether a tensor is that of CLIP's tower of texts."""
    return other_reason(name) is not None and not name.endswith("proj")


def _as_transformers(parts: State, projection: Tensor | None, activation: str) -> tuple[Any, State]:
    """The configuration and the tensors of transformers' class, with the projection for texts where the file has it.

    raises   ValueError when the tensors are not those of one tower
    """
    import transformers

    kind = transformers.CLIPVisionModel if projection is None else transformers.CLIPVisionModelWithProjection
    sizes = {key: value for key, value in tower_sizes(parts, activation).items() if key != "model_type"}
    if projection is not None:
        sizes["projection_dim"] = projection.shape[1]
    config = transformers.CLIPVisionConfig(**sizes, architectures=[kind.__name__])
    with torch.device("meta"):
        own = kind(config).state_dict()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in own) else ""
    state = {f"{prefix}{name}": value.float().clone() for name, value in parts.items()}
    if projection is not None:
        state["visual_projection.weight"] = projection.float().T.contiguous()
    wrong = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(f"the tensors are not those of one ViT of CLIP; {len(wrong)} differ, for example {wrong[0]}")
    return config, state


def _preprocessing(side: int) -> dict[str, Any]:
    """The content of preprocessor_config.json: resized by the shorter side, middle cropped, as open_clip does."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": side}, "resample": BICUBIC,
        "do_center_crop": True, "crop_size": {"height": side, "width": side},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), "do_convert_rgb": True,
    }  # fmt: skip
