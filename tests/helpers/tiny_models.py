"""Small models for the tests of chatbridge.models: settings as a YAML gives them, and batches to push through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig

VISION = {"name": "eva_vit", "width": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "image_size": 28}
AUDIO = {
    "name": "beats", "width": 16, "depth": 1, "heads": 2, "mlp_width": 24, "patch_width": 12, "position_kernel": 4,
    "position_groups": 2, "num_buckets": 8, "max_distance": 16, "mel_bins": 32, "target_frames": 32,
}  # fmt: skip
_TRUNK = {"width": 8, "depth": 1, "heads": 2, "drop_path": 0.0}
IMAGEBIND = {
    "name": "imagebind", "out_width": 10, "vision": {**_TRUNK, "image_size": 28},
    "audio": {**_TRUNK, "mel_bins": 32, "frames": 36}, "depth": {**_TRUNK, "image_size": 32},
    "thermal": {**_TRUNK, "image_size": 32}, "imu": {**_TRUNK, "length": 16, "head_dropout": 0.0},
    "text": {**_TRUNK, "context_length": 6, "vocabulary": 20},
}  # fmt: skip
IMAGEBIND_MEDIA = {  # shape of one piece
    "image": (3, 28, 28), "video": (3, 2, 28, 28), "audio": (1, 32, 36), "depth": (1, 32, 32), "thermal": (1, 32, 32),
    "imu": (6, 16),
}  # fmt: skip
PERCEIVER = {
    "name": "qformer", "num_queries": 3, "num_layers": 2, "width": 16, "heads": 2, "dropout": 0.1,
    "queries": {"image": "visual", "video": "visual", "audio": "sound"},
}  # fmt: skip
LANGUAGE = {
    "name": "causal_lm",
    "architecture": {
        "vocab_size": 50, "hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "eos_token_id": 2, "bos_token_id": 1,
    },
}  # fmt: skip
ROUTES = {
    "image": {"encoder": "vision", "bridge": "perceiver"},
    "video": {"encoder": "vision", "bridge": "perceiver", "frames": {"count": 2}},
    "audio": {"encoder": "audio", "bridge": "perceiver", "clips": {"count": 1}},
}
MEDIA = {"image": (3, 28, 28), "video": (2, 3, 28, 28), "audio": (1, 32, 32)}  # shape of one item


def model_mapping(**changes: Any) -> dict[str, Any]:
    """The `model:` node of a YAML; keyword arguments replace its keys."""
    return {
        "encoders": {"vision": VISION, "audio": AUDIO},
        "bridges": {"perceiver": PERCEIVER},
        "language": LANGUAGE,
        "routes": ROUTES,
        **changes,
    }


def tiny_model(**changes: Any) -> ChatModel:
    torch.manual_seed(0)
    return ChatModel(parse(ModelConfig, model_mapping(**changes)))


def batch(
    model: ChatModel, modalities: tuple[str, ...], lengths: tuple[int, ...] = (), seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] = MEDIA,
) -> Batch:  # fmt: skip
    """One sequence per modality: a token, the item's slots, then text of which the last three tokens are supervised.

    shapes   modality -> shape of one item
    """
    draw = torch.Generator().manual_seed(seed)
    num_slots = model.media_lengths()
    lengths = lengths or tuple(num_slots[modality] + 5 + row for row, modality in enumerate(modalities))
    length = max(lengths)
    ids = torch.randint(3, 50, (len(modalities), length), generator=draw)
    media: dict[str, list[torch.Tensor]] = {}
    media_slots: dict[str, list[torch.Tensor]] = {}
    points, targets = [], []
    for row, modality in enumerate(modalities):
        media.setdefault(modality, []).append(torch.randn(shapes[modality], generator=draw))
        media_slots.setdefault(modality, []).append(row * length + 1 + torch.arange(num_slots[modality]))
        ids[row, 1 : 1 + num_slots[modality]] = 0
        ids[row, lengths[row] :] = 0
        positions = torch.arange(lengths[row] - 4, lengths[row] - 1)
        points.append(row * length + positions)
        targets.append(ids[row, positions + 1])
    return Batch(
        ids=ids,
        positions=torch.arange(length).expand(len(modalities), -1),
        lengths=torch.tensor(lengths),
        predict_at=torch.cat(points),
        target=torch.cat(targets),
        media={modality: torch.stack(items) for modality, items in media.items()},
        media_slots={modality: torch.stack(items) for modality, items in media_slots.items()},
        sources=tuple(f"source_{modality}" for modality in modalities),
        num_points=(3,) * len(modalities),
    )
