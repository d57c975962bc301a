"""Spread the decoder layers of a language model, and the layers of a fusion among them, over the ranks with FSDP2, and
read into each rank only its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from chatbridge.models.checkpoint_tensors import rows_of
from chatbridge.models.fingerprints import base_name
from chatbridge.models.fusion import Fusion
from chatbridge.models.language._sharded_files import is_placeholder
from chatbridge.models.language._sharded_units import units_obstacle
from chatbridge.models.language.base import LanguageModel
from chatbridge.runners.config import ShardingConfig


def shard_layers(
    language: LanguageModel,
    mesh: DeviceMesh,
    sharding: ShardingConfig,
    dtype: torch.dtype,
    fusion: Fusion | None = None,
) -> tuple[list[FSDPModule], list[FSDPModule]]:
    """Spread the rows of every tensor of the decoder layers over the ranks of a mesh; returns the layers, and those of
    the fusion.

    Each layer is a unit: its weights are gathered for its forward and its backward, in `dtype`, and freed afterwards.
    The language model becomes the root of the units, so that the weights of the next layer travel while one computes.
    Its own tensors stay whole. Units of a fusion are roots of their own: they are no modules of the language model,
    which calls them in its hooks.
    raises   ValueError when there are no layers, or they share a tensor
    """
    if (reason := units_obstacle(language)) is not None:
        raise ValueError(reason)
    layers, units = list(language.decoder_layers), [] if fusion is None else fusion.units()
    is_offloaded = sharding.offload == "cpu" and mesh.device_type != "cpu"
    policies = _policies(mesh, sharding, dtype, is_offloaded)
    for layer in layers:
        _forget_placeholders(layer)
        fully_shard(layer, ignored_params={p for p in layer.parameters() if _stays_whole(p)}, **policies)
        _read_rows(layer, language, mesh, "cpu" if is_offloaded else mesh.device_type)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    fully_shard(language, ignored_params={p for p in language.parameters() if id(p) not in inside}, **policies)
    for unit in units:
        fully_shard(unit, ignored_params={p for p in unit.parameters() if _stays_whole(p)}, **policies)
    if fusion is not None and units:
        fusion.runs_always = True
    _sum_gradients((language, *layers, *units))
    for root in (language, *units):  # before any layer runs: beam search skips the root
        fully_shard.state(root)._lazy_init()  # type: ignore[attr-defined]
    return layers, units  # type: ignore[return-value]


def _policies(mesh: DeviceMesh, sharding: ShardingConfig, dtype: torch.dtype, is_offloaded: bool) -> dict[str, Any]:
    """The arguments of fully_shard that all units share."""
    return {
        "mesh": mesh,
        "reshard_after_forward": sharding.reshard_after_forward,
        # The input stays as it is: the residual stream of a trained language model is fp32 under autocast, here too
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
        "offload_policy": CPUOffloadPolicy() if is_offloaded else OffloadPolicy(),
    }


def _sum_gradients(modules: Iterable[nn.Module]) -> None:
    """Let the gradients of units be sums over the ranks: the loss is divided by the tokens of all ranks already."""
    for module in modules:
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply and sum in one operation


def _stays_whole(parameter: nn.Parameter) -> bool:
    """Whether a tensor is not spread: a scalar, and the packed integers of a quantized layer, which have no rows."""
    return parameter.ndim == 0 or not parameter.is_floating_point()


def _forget_placeholders(layer: nn.Module) -> None:
    """Turn placeholders into meta tensors, which FSDP2 cuts without memory."""
    for module in layer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_placeholder(parameter):
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))


def _read_rows(layer: nn.Module, language: LanguageModel, mesh: DeviceMesh, device: str) -> None:
    """Read this rank's rows of every tensor that has no values yet."""
    state: dict[str, Tensor] = {}
    prefix = next(name for name, module in language.named_modules() if module is layer)
    for name, parameter in _without_values(layer):
        assert language.unread is not None, name
        rows = language.unread(base_name(language, f"{prefix}.{name}"), *rows_of(parameter))
        local = rows.to(device, parameter.dtype)
        state[name] = DTensor.from_local(
            local, mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
        )
    if state:
        layer.load_state_dict(state, strict=False, assign=True)


def _without_values(layer: nn.Module) -> Iterator[tuple[str, DTensor]]:
    for name, parameter in layer.named_parameters():
        if isinstance(parameter, DTensor) and parameter.to_local().is_meta:
            yield name, parameter
