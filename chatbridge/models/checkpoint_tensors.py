"""The trained tensors of a checkpoint, whether one rank wrote them whole or every rank its rows.

    model.safetensors                             whole tensors
    shard-00001-model-00001-of-00001.safetensors  rows of rank 0: of a tensor `name`, and of its moments, which are
                                                  called `optimizer/<moment>/<name>`
    shard-00002-...                               rows of rank 1, and so on

torch.distributed.checkpoint writes and reads the shards in its safetensors format: plain tensors with their offsets in
the header, no pickle. Any number of ranks reads them, also a single process.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.checkpoint_manifest import WEIGHTS, UnusableCheckpoint
from chatbridge.models.component import State
from chatbridge.models.fingerprints import is_sharded
from chatbridge.models.weight_files import read_state

MOMENT = "optimizer/"  # in front of the names of an optimizer's tensors


def is_shard(name: str) -> bool:
    """Whether a file of a checkpoint holds the rows of one rank."""
    return name.startswith("shard-") and name.endswith(".safetensors")


def shard_files(checkpoint: Path) -> list[str]:
    """The names of the files that hold rows; empty: every tensor is whole."""
    return sorted(path.name for path in checkpoint.glob("shard-*.safetensors"))


def trained_tensors(checkpoint: Path) -> State:
    """Name -> each trained tensor of a checkpoint folder, whole, on the CPU.

    Check the folder first (`checkpoints.read_checked`).
    raises   ValueError when a file is missing or damaged
    """
    state = read_state(checkpoint / WEIGHTS)
    rest = {
        name: torch.empty_like(t, device="cpu") for name, t in trained_shapes(checkpoint).items() if name not in state
    }
    if rest:
        read_into(checkpoint, rest)
    return {**state, **rest}


def trained_shapes(checkpoint: Path) -> State:
    """Name -> each trained tensor of a checkpoint folder, without its values (on the meta device).

    raises   UnusableCheckpoint when a file cannot be read
    """
    return {name: tensor for name, tensor in stored_shapes(checkpoint).items() if not name.startswith(MOMENT)}


def stored_shapes(checkpoint: Path) -> State:
    """Name -> every tensor of the safetensors files, moments of sharded ones included, without values.

    raises   UnusableCheckpoint when a file cannot be read
    """
    if not shard_files(checkpoint):
        return {name: tensor.to("meta") for name, tensor in read_state(checkpoint / WEIGHTS).items()}
    try:
        entries = _reader(checkpoint).read_metadata().state_dict_metadata.items()
    except Exception as error:  # damage has many types
        raise _unreadable(checkpoint, error) from error
    return {name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta") for name, entry in entries}


def read_into(checkpoint: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, each whole or a DTensor with the rows of this rank, [...], by name from the files of a checkpoint.

    A rank reads only the rows it needs, by itself: there is no exchange between ranks.
    raises   UnusableCheckpoint when a file cannot be read, or a tensor is not in one
    """
    if not shard_files(checkpoint) and not is_sharded(tensors.values()):
        state = read_state(checkpoint / WEIGHTS)
        for name, tensor in tensors.items():
            tensor.copy_(state[name])
        return
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no process group
            load(dict(tensors), storage_reader=_reader(checkpoint), no_dist=True)
    except (Exception, CheckpointException) as error:  # that one is a BaseException, and damage has many types
        raise _unreadable(checkpoint, error) from error


def rows_of(sharded: Any) -> tuple[int, int]:
    """The first row of a DTensor [R, ...] on this rank, and the one after its last; FSDP2 cuts as torch.chunk does."""
    mesh, num_rows = sharded.device_mesh, sharded.shape[0]
    start = min(mesh.get_local_rank() * -(-num_rows // mesh.size()), num_rows)
    return start, start + sharded.to_local().shape[0]


def copy_rows(sharded: Any, value: Tensor) -> None:
    """Copy the rows of this rank from a whole tensor [R, ...] into a DTensor of the same shape."""
    start, stop = rows_of(sharded)
    sharded.to_local().copy_(value[start:stop])


def _unreadable(checkpoint: Path, error: BaseException) -> UnusableCheckpoint:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return UnusableCheckpoint(f"{checkpoint}: its safetensors files cannot be read ({reason[:200]})")


def _reader(checkpoint: Path) -> Any:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    return HuggingFaceStorageReader(str(checkpoint))
