"""7B- and 13B-shaped ChatBridge models with random weights, and image-text batches for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.step_shapes import Drawn, Shapes, samples
from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.datasets.collate import stack
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.placement import place_model
from chatbridge.models.trainable import set_trainable


@dataclass(frozen=True, kw_only=True)
class Size:
    """A language model behind EVA-ViT-g and a Q-Former of BLIP-2's size.

    batch    conversations of a step
    window   steps whose conversations are sorted by length together, as `data.batching: grouped` does
    """

    name: str
    width: int
    mlp_width: int
    depth: int
    heads: int
    batch: int = 64
    vocabulary: int = 32_000
    window: int = 8
    workers: int = 8
    is_tiny: bool = False


SIZES = {
    "7b": Size(name="7b", width=4096, mlp_width=11008, depth=32, heads=32),
    "13b": Size(name="13b", width=5120, mlp_width=13824, depth=40, heads=40),
}
TINY = Size(name="tiny", width=48, mlp_width=64, depth=2, heads=4, batch=2, vocabulary=300, window=2, workers=0,
            is_tiny=True)  # fmt: skip


def settings(size: Size) -> dict[str, Any]:
    """The `model:` node of a YAML; images only."""
    vision: dict[str, Any] = {"name": "eva_vit"}
    bridge: dict[str, Any] = {"name": "qformer"}
    if size.is_tiny:
        vision |= {"width": 32, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "image_size": 28}
        bridge |= {"width": 32, "num_layers": 2, "heads": 2, "num_queries": 4}
    sizes = {"hidden_size": size.width, "intermediate_size": size.mlp_width, "num_hidden_layers": size.depth,
             "num_attention_heads": size.heads, "vocab_size": size.vocabulary, "max_position_embeddings": 2048,
             "rms_norm_eps": 1e-6, "tie_word_embeddings": False}  # fmt: skip
    return {
        "encoders": {"vision": vision},
        "bridges": {"perceiver": bridge},
        "language": {"name": "causal_lm", "architecture": sizes},
        "routes": {"image": {"encoder": "vision", "bridge": "perceiver"}},
        "trainable": ["bridges.*"],
    }


def build(size: Size, device: torch.device) -> ChatModel:
    """The model in bf16, its Q-Former in fp32 for training. Its weights are drawn on the device itself."""
    config = parse(ModelConfig, settings(size))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # 13B in fp32 would need the memory twice while it is built
    try:
        with device:
            model = ChatModel(config)
    finally:
        torch.set_default_dtype(before)
    set_trainable(model, config.trainable)
    if device.type == "meta":
        return model
    place_model(model, device, torch.bfloat16)
    return model.train()


class _Steps(IterableDataset[Batch]):
    """Batches of one window after the other, without end; images are random bytes."""

    def __init__(self, size: Size, image_size: int, num_queries: int) -> None:
        self.size = size
        self.shapes = Shapes(image_size=image_size, num_queries=num_queries, vocabulary=size.vocabulary)

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        number = 0 if worker is None else worker.id
        while True:
            drawn = sorted(self._window(number), key=lambda one: -len(one[1]))
            for start in range(0, len(drawn), self.size.batch):
                part = drawn[start : start + self.size.batch]
                yield stack([sample for sample, _ in part], [sequence for _, sequence in part], pad_id=0)
            number += 1 if worker is None else worker.num_workers

    def _window(self, number: int) -> list[Drawn]:
        return samples("captions", self.size.batch * self.size.window, self.shapes, number, as_bytes=True)


def batches(size: Size, model: ChatModel) -> Iterator[Batch]:
    """Endless batches from loader workers, pinned where there is a GPU."""
    encoder: Any = model.encoders["vision"]
    steps = _Steps(size, encoder.config.image_size, model.media_lengths()["image"])
    pinned = torch.cuda.is_available()
    return iter(DataLoader(steps, batch_size=None, num_workers=size.workers, pin_memory=pinned))
