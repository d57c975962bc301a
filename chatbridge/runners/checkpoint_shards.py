"""The sharded part of a checkpoint: every rank writes its rows and their moments, any number of ranks reads them.

See models/checkpoint_tensors.py for the files. A checkpoint of `replicate` has no such part; it is read all the same,
each rank taking its rows, and the other way round.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.dist import Dist
from chatbridge.common.safe_files import sync_to_disk
from chatbridge.models.checkpoint_manifest import describe
from chatbridge.models.checkpoint_tensors import MOMENT, read_into, rows_of, shard_files, stored_shapes
from chatbridge.runners.parallel import Parallel

Moments = dict[str, dict[str, Any]]  # parameter name -> moment -> value


def write_shards(folder: Path, parallel: Parallel, moments: Moments, dist: Dist) -> dict[str, Any]:
    """Write the rows of this rank and their moments; every rank calls it with the same folder.

    moments   of all parameters of this rank
    returns   file name -> its checksum, for the manifest, on every rank
    raises    RuntimeError on every rank when one could not write
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    state = {name: parameter.detach() for name, parameter in parallel.sharded.items()}
    for name, parameter in parallel.sharded.items():
        for key, value in moments.get(name, {}).items():
            if _has_rows(parameter, value):
                state[f"{MOMENT}{key}/{name}"] = _as_sharded(value, parameter)
    try:
        with _quiet():
            save(state, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:  # on every rank
        found = next(iter(error.failures.values()))[0]
        raise RuntimeError(str(found)) from found
    mine = [name for name in shard_files(folder) if name.startswith(f"shard-{dist.rank + 1:05d}-")]
    for name in mine:
        sync_to_disk(folder / name)
    own = {name: describe(folder / name) for name in mine}
    return {name: entry for part in dist.gather(own) for name, entry in part.items()}


def whole_moments(parallel: Parallel, moments: Moments) -> Moments:
    """The moments without those that `write_shards` writes: of replicated parameters, and the step counters."""
    whole: Moments = {}
    for name, entries in moments.items():
        sharded = parallel.sharded.get(name)
        whole[name] = {key: one for key, one in entries.items() if sharded is None or not _has_rows(sharded, one)}
    return whole


def read_moments(checkpoint: Path, parallel: Parallel, whole: Moments) -> Moments:
    """The moments of this rank's parameters, from the whole ones of optimizer.pt and from the shards."""
    found: Moments = {name: dict(entries) for name, entries in whole.items()}
    targets: dict[str, Tensor] = {}
    for full in stored_shapes(checkpoint) if shard_files(checkpoint) else ():
        if full.startswith(MOMENT):
            key, _, name = full.removeprefix(MOMENT).partition("/")
            if name in parallel.parameters:
                rows = torch.zeros_like(parallel.parameters[name], requires_grad=False)
                found.setdefault(name, {})[key] = rows
                targets[full] = _as_sharded(rows, parallel.sharded[name]) if name in parallel.sharded else rows
    if targets:
        read_into(checkpoint, targets)
    for name, parameter in parallel.sharded.items():
        for key, value in found.get(name, {}).items():
            if isinstance(value, Tensor) and value.ndim and value.shape == parameter.shape:
                start, stop = rows_of(parameter)
                found[name][key] = value[start:stop].clone()
    return found


def _has_rows(parameter: Any, value: Any) -> bool:
    """Whether a moment has a value for each of the parameter's on this rank; a step counter has not."""
    return isinstance(value, Tensor) and value.shape == parameter.to_local().shape


def _as_sharded(rows: Tensor, parameter: Any) -> Tensor:
    """The DTensor with these rows, [rows, ...], that lies on the ranks as `parameter` does."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows, parameter.device_mesh, parameter.placements,
        run_check=False, shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages of torch about its own format."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
