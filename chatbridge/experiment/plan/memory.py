"""Predicted peak memory of one rank, by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chatbridge.experiment.plan.weights import FP32, components, layer_rows
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.flops import StepFlops
from chatbridge.models.memory import Recomputed, checkpoint_activations, matching
from chatbridge.models.memory import components as parts_of
from chatbridge.runners.config import RunConfig
from chatbridge.runners.planned_step.live_storage import COPIES, GRADIENTS, OPTIMIZER, WEIGHTS
from chatbridge.runners.planned_step.measure import simulated
from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch

CONTEXT = "CUDA context, communication, fragmentation"
SHARDING = "sharding buffers"
CONTEXT_BYTES = int(0.8 * (1 << 30))  # of a CUDA context with cuBLAS workspaces, and of NCCL
FRAGMENTATION = 0.04  # of what is allocated
FULL_STATE, EIGHT_BIT_STATE = 8, 2  # bytes per value: moments of AdamW; the same in 8 bit
MOST_GPU_CHUNK_MB = 256


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of one rank, by part.

    freed   of a micro-batch (activations, logits, ...) where the peak is in the optimizer step, which comes later
    """

    parts: Mapping[str, int]
    shape: PlannedBatch | None
    freed: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def dominant(self) -> str:
        """The part that takes most."""
        return max(self.parts, key=lambda name: self.parts[name])


class MemoryPlanner:
    """Peaks of one model. Simulated steps are remembered by their shape and settings."""

    def __init__(self, model: ChatModel, dtype: torch.dtype, has_gpu: bool, bits: int | None = None) -> None:
        self.model, self.dtype, self.has_gpu = model, dtype, has_gpu
        self.components = components(model, dtype, bits)
        self.layers = layer_rows(model, dtype, bits)
        self._moving: dict[Any, dict[str, int]] = {}
        self._flops = StepFlops(model)

    def peak(self, run: RunConfig, shape: PlannedBatch, ranks: int) -> Memory:
        """The peak of a run whose largest micro-batch has this shape."""
        moving = self._simulated(run, shape)
        freed = sum(moving.values()) if sum(moving.values()) < self._step_bytes(run, ranks) else 0
        return Memory(self._whole(run, ranks, moving), shape, freed)

    def estimate(self, run: RunConfig, shape: PlannedBatch, factor: float, ranks: int) -> int:
        """Bytes at the peak with `factor` times the micro-batch, on a line through two simulated sizes."""
        full, half = (sum(self._simulated(run, one).values()) for one in (shape, shape.times(0.5)))
        moving = half + (full - half) * (factor - 0.5) / 0.5
        return sum(self._whole(run, ranks, {"moving": int(max(moving, 0))}).values())

    def still(self, run: RunConfig, ranks: int) -> int:
        """Bytes that no micro-batch changes."""
        return sum(self._whole(run, ranks, {}).values())

    def _whole(self, run: RunConfig, ranks: int, moving: Mapping[str, int]) -> dict[str, int]:
        step = {"optimizer step": self._step_bytes(run, ranks)}
        parts = self._still(run, ranks) | dict(moving if sum(moving.values()) >= step["optimizer step"] else step)
        if self.has_gpu:
            parts[CONTEXT] = CONTEXT_BYTES + int(FRAGMENTATION * sum(parts.values()))
        return {name: size for name, size in parts.items() if size}

    @property
    def num_trained(self) -> int:
        return sum(one.trained + one.adapted for one in self.components)

    def _simulated(self, run: RunConfig, shape: PlannedBatch) -> dict[str, int]:
        """What a micro-batch needs beside weights, gradients and the optimizer's state."""
        key = (repr(shape), run.activation_checkpointing, run.loss_chunk_mb)
        if key not in self._moving:
            _undo_checkpointing(self.model)
            checkpoint_activations(self.model, run.activation_checkpointing)
            self.model.loss_chunk_mb = run.loss_chunk_mb
            if run.loss_chunk_mb is None and self.has_gpu:
                self.model.loss_chunk_mb = MOST_GPU_CHUNK_MB
            self._moving[key] = simulated(self.model, shape, self.dtype, self.has_gpu).moving
        found = dict(self._moving[key])
        if run.parallel == "shard" and COPIES in found:  # the gathered layers are in the compute dtype already
            found[COPIES] = int(found[COPIES] * (1 - self._sharded_share))
        return found

    @property
    def _sharded(self) -> int:
        """Trained values in the layers that `shard` spreads over the ranks."""
        return sum(layer.trained for layer in self.layers)

    @property
    def _sharded_share(self) -> float:
        return self._sharded / self.num_trained if self.num_trained else 0.0

    def _still(self, run: RunConfig, ranks: int) -> dict[str, int]:
        """Weights, gradients, the optimizer's state, and the buffers of sharding."""
        weights = sum(one.bytes for one in self.components)
        buffers = sum(one.numel() * one.element_size() for one in self.model.buffers())
        state = EIGHT_BIT_STATE if is_eight_bit(run) else FULL_STATE
        own = self.num_trained
        if run.parallel != "shard":
            return {WEIGHTS: weights + buffers, GRADIENTS: FP32 * own, OPTIMIZER: state * own}
        stored = sum(layer.bytes for layer in self.layers)
        rows = 0 if run.sharding.offload == "cpu" else 1 / ranks  # what a rank holds of the layers, on its device
        own_rows = own - self._sharded + int(self._sharded * rows)
        sizes = [layer.values for layer in self.layers]
        trained = [layer.trained for layer in self.layers]
        # gathered layers: the one that is used and the next one, or all of them; gradients until they are summed
        gathered = sum(sorted(sizes)[-2:] if run.sharding.reshard_after_forward else sizes)
        unsummed = max(trained, default=0) if run.sharding.reduce == "micro" else sum(trained)
        return {
            WEIGHTS: weights + buffers - stored + int(stored * rows),
            GRADIENTS: FP32 * own_rows,
            OPTIMIZER: state * own_rows,
            SHARDING: self.dtype.itemsize * gathered + FP32 * unsummed,
        }

    def offloaded(self, run: RunConfig, ranks: int) -> int:
        """Bytes of one rank in the memory of the CPU: its rows of the layers, their gradients and their moments."""
        if run.parallel != "shard" or run.sharding.offload != "cpu":
            return 0
        return (sum(layer.bytes for layer in self.layers) + (FP32 + FULL_STATE) * self._sharded) // ranks

    def _step_bytes(self, run: RunConfig, ranks: int) -> int:
        """Temporary tensors of AdamW: on a GPU of all parameters at once (foreach), on a CPU two of the largest one."""
        trained = [p.numel() for p in self.model.parameters() if p.requires_grad]
        if not trained:
            return 0
        if not self.has_gpu or is_eight_bit(run):
            return 2 * FP32 * max(trained)
        values = sum(trained)
        if run.parallel == "shard":
            rows = 0 if run.sharding.offload == "cpu" else self._sharded // ranks
            values += rows - self._sharded
        return FP32 * values

    def flops(self, run: RunConfig) -> StepFlops:
        """Operations of a micro-batch; costs of items are measured once."""
        return self._flops.with_checkpointing(self.checkpointed(run))

    def checkpointed(self, run: RunConfig) -> list[str]:
        """The components whose activations are recomputed."""
        return matching(run.activation_checkpointing, parts_of(self.model))

    def checkpoint_bytes(self, run: RunConfig) -> int:
        """One checkpoint: trained tensors and the optimizer's state."""
        state = EIGHT_BIT_STATE if is_eight_bit(run) else FULL_STATE
        return self.num_trained * (FP32 + state)


def is_eight_bit(run: RunConfig) -> bool:
    return run.optimizer.kind == "adamw_8bit"


def _undo_checkpointing(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), Recomputed):
            del module.forward
