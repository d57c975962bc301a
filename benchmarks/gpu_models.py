"""ChatBridge of 7B and 13B and the shipped models of current parts, with random weights and published sizes, and
image-text batches for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.step_shapes import Drawn, Shapes, samples
from chatbridge.common.types import Batch
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.datasets.collate import stack
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.placement import place_model
from chatbridge.models.trainable import set_trainable

MODELS = Path(__file__).parents[1] / "configs/models"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A language model behind EVA-ViT-g and a Q-Former of BLIP-2's size, or the model of a shipped file.

    file     a YAML of configs/models, which says every size of the model; "": the sizes are those below
    batch    conversations of a step
    window   steps whose conversations are sorted by length together, as `data.batching: grouped` does
    """

    name: str
    file: str = ""
    width: int = 0
    mlp_width: int = 0
    depth: int = 0
    heads: int = 0
    batch: int = 64
    vocabulary: int = 32_000
    window: int = 8
    workers: int = 8
    is_tiny: bool = False


SIZES = {
    "7b": Size(name="7b", width=4096, mlp_width=11008, depth=32, heads=32),
    "13b": Size(name="13b", width=5120, mlp_width=13824, depth=40, heads=40),
    "modern_2b": Size(name="modern_2b", file="modern_2b.yaml", vocabulary=151_936),
    "modern_4b": Size(name="modern_4b", file="modern_4b.yaml", vocabulary=151_936, batch=32),
    "modern_8b": Size(name="modern_8b", file="modern_8b.yaml", vocabulary=151_936, batch=32),
}
TINY = Size(name="tiny", width=48, mlp_width=64, depth=2, heads=4, batch=2, vocabulary=300, window=2, workers=0,
            is_tiny=True)  # fmt: skip
TINY_EYES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "image_size": 28, "patch_size": 14}  # fmt: skip
TINY_LANGUAGE = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300}  # fmt: skip


def tiny(size: Size) -> Size:
    """A small network of the same kind, for any device."""
    return replace(TINY, name=size.name, file=size.file)


def settings(size: Size) -> dict[str, Any]:
    """The `model:` node of a YAML; images only."""
    if size.file:
        return _of_file(size)
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


def _of_file(size: Size) -> dict[str, Any]:
    """The part of a shipped model that sees and answers, without weights: no file is read but the YAML."""
    node = load(MODELS / size.file)[0]["model"]
    route = {key: node["routes"]["image"][key] for key in ("encoder", "bridge")}
    eyes, bridge = dict(node["encoders"][route["encoder"]]), dict(node["bridges"][route["bridge"]])
    language = {key: node["language"][key] for key in ("name", "architecture")}
    eyes.pop("weights", None)
    if size.is_tiny:
        eyes["architecture"] |= TINY_EYES
        language["architecture"] |= TINY_LANGUAGE
        bridge["pool"] = 4
    return {
        "encoders": {route["encoder"]: eyes},
        "bridges": {route["bridge"]: bridge},
        "language": language,
        "routes": {"image": route},
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
    encoder: Any = model.encoders[model.config.routes["image"].encoder]
    own = settings(size)["encoders"] if size.file else {}
    side = next(iter(own.values()))["architecture"]["image_size"] if own else encoder.config.image_size
    steps = _Steps(size, side, model.media_lengths()["image"])
    pinned = torch.cuda.is_available()
    return iter(DataLoader(steps, batch_size=None, num_workers=size.workers, pin_memory=pinned))
