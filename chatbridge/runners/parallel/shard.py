"""`shard`: the decoder layers of the language model are spread over the ranks (FSDP2), the rest is replicated.

Each layer is a unit of `fully_shard` on a mesh of all ranks, whether its tensors train, are frozen, or both (LoRA, the
last k layers). The layers of a fusion among them (`Fusion.units`) are units as well. Everything else (bridges,
encoders, embeddings, final norm, head) is on every rank, and its gradients are those of `replicate`. The embedding and
the head stay whole because they are used outside the language model's forward, in numbers of calls that differ between
ranks; with 32,000 tokens of width 5,120, both trained, they take 5.2 GB of fp32 weights, gradients and moments on every
rank.

Ranks must run the same collectives, whatever their batches contain, and there is one for each layer in forward and in
backward. So the input of the language model always requires a gradient: the backward of a text-only micro-batch then
passes all layers too, also where everything below the bridge is frozen. While weights are `gathered`, forwards have no
collectives, and ranks may generate answers of different lengths. That takes the memory of the whole language model.

The optimizer sees the rows of this rank as ordinary tensors, so that any optimizer works on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from chatbridge.common.dist import Dist
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.models.fusion import Fusion
from chatbridge.models.language.base import LanguageModel
from chatbridge.runners.config import ShardingConfig
from chatbridge.runners.parallel._sharded_layers import shard_layers
from chatbridge.runners.parallel.norm import sum_of_squares
from chatbridge.runners.parallel.replicate import Replicated


class Sharded:
    """Implements `Parallel` for a model whose decoder layers are spread over the ranks.

    model     a ChatModel on the device of its rank, with its adapters in it; layers without values read them now
    dtype     in which the layers compute
    raises    ValueError if a trainable parameter is not float32, or the layers cannot be spread
    """

    def __init__(self, model: nn.Module, sharding: ShardingConfig, dist: Dist, dtype: torch.dtype) -> None:
        self.dist = dist
        self.sharding = sharding
        self.language = cast("LanguageModel", model.language)
        mesh = init_device_mesh(dist.device.type, (dist.world_size,))
        layers, units = shard_layers(
            self.language, mesh, sharding, dtype, cast("Fusion | None", getattr(model, "fusion", None))
        )
        self.layers = [*layers, *units]
        self.roots = [cast("FSDPModule", self.language), *units]
        trainable = trainable_parameters(model)
        self.sharded = {name: p for name, p in trainable.items() if isinstance(p, DTensor)}
        self.replicated = Replicated({name: p for name, p in trainable.items() if name not in self.sharded}, dist)
        self.rows = {name: _rows(name, parameter) for name, parameter in self.sharded.items()}
        self.parameters: Mapping[str, nn.Parameter] = {name: self.rows.get(name, p) for name, p in trainable.items()}
        self.language.register_forward_pre_hook(_require_gradient)

    def zero(self) -> None:
        """Set the replicated gradients to zero; the sharded ones do not exist until the first reduction."""
        self.replicated.zero()
        for name, parameter in self.sharded.items():
            parameter.grad = self.rows[name].grad = None

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradient of one micro-batch, summed over ranks now or with the last one; loss float[]."""
        assert loss.requires_grad, "a rank without a backward would leave the others waiting in theirs"
        for root in self.roots:
            root.set_requires_gradient_sync(is_last or self.sharding.reduce == "micro")
        loss.backward()

    def reduce(self) -> None:
        """Sum the replicated gradients over ranks; `backward` has summed the sharded ones.

        A parameter that no rank used has a zero gradient, as under `replicate`.
        """
        self.replicated.reduce()
        for name, parameter in self.sharded.items():
            gradient, rows = parameter.grad, self.rows[name]
            rows.grad = torch.zeros_like(rows) if gradient is None else cast("DTensor", gradient).to_local()

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale all gradients, sharded and replicated, to a common norm of at most `max_norm`; None: no limit.

        returns  float[]  the norm before clipping, the same on every rank; inf or nan if any gradient is
        """
        squares = sum_of_squares(self.replicated.buffer)
        if self.rows:
            own = torch.stack([sum_of_squares(cast("Tensor", rows.grad)) for rows in self.rows.values()]).sum()
            squares = squares + self.dist.sum(own.to(self.dist.device))
        norm = squares.sqrt().float()
        if max_norm is not None:
            scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            self.replicated.buffer.mul_(scale)
            of_rows = scale.to(next(iter(self.rows.values())).device) if self.rows else scale  # on the CPU with offload
            for rows in self.rows.values():
                cast("Tensor", rows.grad).mul_(of_rows)
        return norm

    def clip_so_far(self, max_norm: float | None) -> None:
        """Clip the gradients so far. Those of sharded layers are summed already (sharding.reduce: micro), and a later
        backward adds to them; the replicated ones stay on one rank, so that the next sum has them once."""
        self.reduce()
        self.clip(max_norm)
        self.replicated.keep_on_one_rank()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The weights of all layers on every rank: forwards without gradient then need no other rank."""
        for layer in self.layers:
            layer.set_reshard_after_forward(False)
            layer.unshard()
        try:
            yield
        finally:
            self.release()
            for layer in self.layers:
                layer.set_reshard_after_forward(self.sharding.reshard_after_forward)

    def release(self) -> None:
        """Free the gathered weights, so that the parameters of the model are rows again, as checkpoints need them.

        With `reshard_after_forward: false` only a backward frees them otherwise.
        """
        for layer in self.layers:
            layer.reshard()


def _rows(name: str, parameter: DTensor) -> nn.Parameter:
    """The rows of this rank as a parameter of their own, in the same memory; [rows, ...]

    raises   ValueError if the parameter is not float32
    """
    if parameter.dtype != torch.float32:
        stored = f"{name} is trainable but stored in {parameter.dtype}"
        raise ValueError(f"{stored}; trainable parameters must be stored in float32")
    return nn.Parameter(cast("DTensor", parameter.detach()).to_local())


def _require_gradient(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Let the first argument, float[B, L, D], require a gradient in training, so that backward passes every layer."""
    if torch.is_grad_enabled() and not args[0].requires_grad:
        return (args[0].detach().requires_grad_(), *args[1:])
    return None
