"""A tiny ChatModel with a language model from a folder, trained under `replicate` or `shard` by the real runner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.dist import Dist
from chatbridge.common.types import Batch
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.loading import load_weights
from chatbridge.models.memory import checkpoint_activations
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.checkpoint import Checkpointer, TrainState
from chatbridge.runners.config import RunConfig, ShardingConfig
from chatbridge.runners.optim import OptimizerConfig, Schedule, ScheduleConfig, build_optimizer
from chatbridge.runners.parallel import Parallel, place
from chatbridge.runners.progress import Progress
from chatbridge.runners.runner import Runner
from tests.helpers.gated_models import GATED
from tests.helpers.tiny_models import PERCEIVER, batch, tiny_model

SLICES: tuple[tuple[str, ...], ...] = (
    ("image", "audio"),
    ("text", "text", "text"),
    ("image", "image"),
    ("audio", "video"),
)
TRAINABLE = {
    "bridges only": ["bridges.*"],
    "last layer": ["bridges.*", "language.lm.model.layers.2.*"],
    "layers only": ["language.lm.model.layers.*"],
    "language model only": ["language.*"],
    "everything": ["bridges.*", "language.*"],
    "LoRA": ["bridges.*"],
    "gated blocks": ["bridges.*", "fusion.*"],
    "gated blocks with LoRA": ["bridges.*"],
    **({"QLoRA": ["bridges.*"]} if find_spec("bitsandbytes") else {}),
}
LORA = ({"targets": ["language.*q_proj", "language.*down_proj"], "rank": 2},)
LORA_OF_BLOCKS = ({"targets": ["fusion.*to_q", "fusion.*to_kv", "fusion.*down"], "rank": 2},)


def write_language_model(folder: Path, shard_size: str = "10GB") -> Path:
    """A random Llama of three layers whose rows do not divide evenly between two or four ranks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=50, hidden_size=20, intermediate_size=33, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(sizes).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def settings(parallel: str, **sharding: Any) -> RunConfig:
    """The run section with everything at its default but `parallel`."""
    return RunConfig(output_dir=Path("unused"), max_steps=1, parallel=parallel, sharding=ShardingConfig(**sharding))  # type: ignore[arg-type]


def placed(
    folder: Path, run: RunConfig, name: str, dist: Dist, dtype: torch.dtype = torch.float32
) -> tuple[ChatModel, Parallel]:
    """A model on its ranks, in training mode and without dropout, so that slices do not depend on their rank.

    name   of what trains, in TRAINABLE
    """
    has_blocks = name.startswith("gated")
    model = tiny_model(
        bridges={"perceiver": {**PERCEIVER, "dropout": 0.0}},
        language={"name": "causal_lm", "weights": str(folder), "load_in_4bit": name == "QLoRA"},
        adapters=() if "LoRA" not in name else LORA_OF_BLOCKS if has_blocks else LORA,
        **({"fusion": {**GATED, "every": 1, "media_width": None}} if has_blocks else {}),
    )
    for key, parameter in model.fusion.named_parameters():
        if key.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.5)
    set_trainable(model, TRAINABLE[name])
    torch.manual_seed(1)  # of the adapters
    load_weights(model, "cpu", dtype, layers_later=run.parallel == "shard")
    checkpoint_activations(model, run.activation_checkpointing)
    parallel = place(model, run, dist)
    return model.train(), parallel


def slice_of(model: ChatModel, step: int, number: int) -> Batch:
    """Slice `number` of a step: media of one or two modalities, or none at all."""
    kinds, seed = SLICES[(step + number) % len(SLICES)], 10 * step + number
    if kinds[0] != "text":
        return batch(model, kinds, seed=seed)
    return replace(batch(model, ("image",) * len(kinds), seed=seed), media={}, media_slots={})


class Slices:
    """Four slices per step: slice m * ranks + r is micro-batch m of rank r."""

    def __init__(self, model: ChatModel, dist: Dist) -> None:
        self.model, self.dist = model, dist

    def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
        for step in range(start, stop):
            yield self.batches(step)

    def batches(self, step: int) -> list[Batch]:
        world = self.dist.world_size
        return [slice_of(self.model, step, micro * world + self.dist.rank) for micro in range(len(SLICES) // world)]


def step_gradients(
    model: ChatModel, parallel: Parallel, dist: Dist, step: int = 0, clip: float | None = None
) -> tuple[dict[str, Tensor], float]:
    """Name -> whole gradient of one step, and the norm; on every rank. clip: its norm in the middle of the step"""
    batches = Slices(model, dist).batches(step)
    parallel.zero()
    supervised = dist.sum(sum(one.num_supervised for one in batches))
    for number, one in enumerate(batches):
        parallel.backward(model(one).total / supervised, number == len(batches) - 1)
        if clip is not None and number == len(batches) // 2 - 1:
            parallel.clip_so_far(clip)
    parallel.reduce()
    norm = float(parallel.clip(None))
    return {name: whole(parallel, name, parameter.grad) for name, parameter in parallel.parameters.items()}, norm


def whole(parallel: Parallel, name: str, rows: Tensor | None) -> Tensor:
    """A tensor of a parameter's shape from the rows of all ranks."""
    from torch.distributed.tensor import DTensor

    assert rows is not None, name
    like: Any = parallel.sharded.get(name)
    if like is None:
        return rows.detach().clone()
    place = {"run_check": False, "shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(rows.detach(), like.device_mesh, like.placements, **place).full_tensor()


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest distance of two tensors of a name, relative to their norm."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / (other[name].norm() + 1e-12)) for name in one)


def shard_runner(folder: Path, language: Path, dist: Dist, parallel: str, name: str, **run: Any) -> Runner:
    """A runner at step 0 of 20 steps of 4 slices; `run` replaces settings."""
    given: dict[str, Any] = {
        "max_steps": 20, "accumulate": len(SLICES) // dist.world_size, "optimizer": OptimizerConfig(lr=3e-3),
        "schedule": ScheduleConfig(warmup_steps=2, warmup_lr=1e-3), "log_every": 1, "save_every": 5, **run,
    }  # fmt: skip
    config = RunConfig(output_dir=folder, parallel=parallel, **given)  # type: ignore[arg-type]
    model, way = placed(language, config, name, dist)
    optimizer = build_optimizer(way.parameters, config.optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    return Runner(
        model=model, loader=Slices(model, dist), optimizer=optimizer,  # type: ignore[arg-type]
        schedule=Schedule(config.schedule, config.optimizer.lr, config.max_steps), parallel=way,
        checkpointer=Checkpointer(folder / "checkpoints", model, optimizer, dist, config.keep, {}, way),
        progress=Progress(folder, config.last_step, config.log_every, dist), evaluator=None, dist=dist, config=config,
        state=TrainState(step=0, seed=config.seed, global_batch=8),
    )  # fmt: skip


def losses(runner: Runner) -> list[float]:
    """Train; the loss of every step."""
    found: list[float] = []
    take = runner.train_step
    runner.train_step = lambda step, batches: _noted(found, take(step, batches))  # type: ignore[method-assign]
    assert runner.train() == 0
    return found


def _noted(found: list[float], result: Any) -> Any:
    found.append(result.loss)
    return result
