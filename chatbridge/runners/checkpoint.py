"""Checkpoints: the tensors that train, the optimizer's moments, the step - nothing else has a state.

The order of data, the dropout and the learning rate are pure functions of (seed, step), so no random state is stored
and a resume is bit for bit the run that was never stopped.

    runs/x/checkpoints/step_000400/model.safetensors    trained tensors by name
                                   optimizer.pt         moments by parameter name
                                   state.json           step and what a resume must have in common with it
                                   manifest.json        configs, fingerprints of frozen parts, tokenizer, template
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.models.handover import (
    FORMAT,
    MANIFEST,
    WEIGHTS,
    changed_frozen_parts,
    changed_tokenizer,
    checkpoints,
    describe_components,
    read_manifest,
    trained_tensors,
)
from chatbridge.models.loading import copy_state, mismatches, read_pickle, read_state
from chatbridge.runners.optim import load_optimizer_state, optimizer_state

OPTIMIZER, STATE = "optimizer.pt", "state.json"


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. `step` counts finished steps, so it is also the number of the next one."""

    step: int
    seed: int
    global_batch: int  # conversations per step over all ranks: with the seed it fixes the order of the data
    samples: int = 0  # conversations so far
    supervised: int = 0  # supervised tokens so far
    sizes: dict[str, int] = field(default_factory=dict)  # source -> samples: they fix the order of the data too


class Checkpointer:
    """Writes and reads the checkpoints of one run folder. Rank 0 writes; every rank calls every method.

    folder     .../checkpoints
    about      what else belongs into the manifest: the model's configuration, tokenizer, template
    keep       how many to keep; older ones are removed after a newer one is complete
    """

    def __init__(
        self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, dist: Dist, keep: int, about: Mapping
    ) -> None:
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.dist = dist
        self.keep = keep
        self.about = dict(about)
        self._components: dict[str, Any] | None = None  # frozen parts do not change: fingerprinted once

    def latest(self) -> Path | None:
        found = checkpoints(self.folder)
        return found[-1] if found else None

    def save(self, state: TrainState) -> Path:
        """Write everything beside its place and move it there in one go: a checkpoint is whole or it is not there."""
        target = self.folder / f"step_{state.step:06d}"
        if self.dist.is_main and not (target / MANIFEST).is_file():
            temporary = self.folder / f".writing_step_{state.step:06d}"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            self._write(temporary, state)
            os.replace(temporary, target)
            _flush_folder(self.folder)
            self._prune()
        self.dist.barrier()
        return target

    def load(self, checkpoint: Path) -> TrainState:
        """Put model and optimizer where the checkpoint left them; returns where that is.

        raises  ValueError with a table when names, shapes or frozen weights differ
        """
        manifest = read_manifest(checkpoint)
        tensors = read_state(checkpoint / WEIGHTS)
        if problems := mismatches(trained_tensors(self.model), tensors):
            raise ValueError(f"{checkpoint} holds other trained tensors than this run:\n" + "\n".join(problems))
        tokenizer = self.about.get("tokenizer", {}).get("fingerprint")
        if changed := changed_frozen_parts(self.model, manifest, tensors) + changed_tokenizer(tokenizer, manifest):
            raise ValueError(f"{checkpoint} was trained beside other frozen weights:\n" + "\n".join(changed))
        copy_state(self.model, tensors)
        load_optimizer_state(self.optimizer, trained_tensors(self.model), read_pickle(checkpoint / OPTIMIZER))
        return read_train_state(checkpoint)

    def _write(self, folder: Path, state: TrainState) -> None:
        parameters = trained_tensors(self.model)
        save_file({name: p.detach().contiguous().cpu() for name, p in parameters.items()}, folder / WEIGHTS)
        torch.save(optimizer_state(self.optimizer, parameters), folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        (folder / MANIFEST).write_text(json.dumps(self._manifest(state.step), indent=1), encoding="utf-8")
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def _manifest(self, step: int) -> dict[str, Any]:
        if self._components is None:
            self._components = describe_components(self.model)
        return {"format": FORMAT, "step": step, **self.about, "components": self._components, "versions": _versions()}

    def _prune(self) -> None:
        for path in checkpoints(self.folder)[: -self.keep]:
            os.replace(path, self.folder / f".old_{path.name}")  # half removed must not look like a checkpoint
        for path in [*self.folder.glob(".old_*"), *self.folder.glob(".writing_*")]:
            shutil.rmtree(path)


def read_train_state(checkpoint: Path) -> TrainState:
    return TrainState(**json.loads((checkpoint / STATE).read_text(encoding="utf-8")))


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("chatbridge", "torch", "transformers", "timm"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
