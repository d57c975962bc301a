"""Checkpoints: the trainable tensors, the optimizer's moments, the step. Nothing else has state.

Data order, dropout and learning rate are pure functions of (seed, step), so no random state is stored, and a resumed
run equals an uninterrupted one bit for bit.

    runs/x/checkpoints/step_000400/model.safetensors    trainable tensors by name
                                   optimizer.pt         moments by parameter name
                                   shard-*.safetensors  rows of sharded tensors and of their moments, a file per rank
                                   state.json           step, and what a resumed run must have in common with it
                                   manifest.json        configs, fingerprints of frozen parts, tokenizer, template,
                                                        sha256 of every file and of itself
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import errors_name_file, sync_to_disk, underlying_os_error, usual_mode
from chatbridge.models.chat_template import changed_chat_template
from chatbridge.models.checkpoint_manifest import (
    FORMAT,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    UnusableCheckpoint,
    is_count,
    read_json,
    write_manifest,
)
from chatbridge.models.checkpoint_tensors import read_into, trained_shapes
from chatbridge.models.checkpoints import best_checkpoint, checkpoints, read_checked
from chatbridge.models.component_tensors import (
    carried_tensors,
    carry,
    describe_components,
    trainable_parameters,
    under_own_names,
)
from chatbridge.models.fingerprints import is_sharded
from chatbridge.models.loading import mismatches, read_pickle
from chatbridge.models.preprocessing_record import changed_preprocessing
from chatbridge.models.start_from_checkpoint import changed_frozen_parts, changed_tokenizer
from chatbridge.runners import OTHER_RANKS
from chatbridge.runners.checkpoint_shards import read_moments, whole_moments, write_shards
from chatbridge.runners.optim import load_optimizer_state, optimizer_state
from chatbridge.runners.parallel import Parallel
from chatbridge.runners.parallel.replicate import Replicated

log = get_logger(__name__)
RESUMED = (WEIGHTS, OPTIMIZER, STATE)  # files that resuming reads


@dataclass(frozen=True)
class TrainState:
    """The progress of a run. `step` counts finished steps, so it is also the number of the next one."""

    step: int
    seed: int
    global_batch: int  # conversations per step over all ranks; with the seed it determines the data order
    samples: int = 0  # conversations so far
    supervised: int = 0  # supervised tokens so far
    sizes: dict[str, int] = field(default_factory=dict)  # source -> samples; they determine the data order too


class Checkpointer:
    """Writes and reads the checkpoints of one run. Rank 0 writes what is whole; every rank calls every method.

    folder     .../checkpoints; on several machines, a folder that all of them see
    about      further content of the manifest: the model's configuration, tokenizer, template
    keep       number of checkpoints to keep; older ones are removed once a newer one is complete, except the best one
    parallel   the model on the ranks: each rank writes its rows of what is sharded; None: nothing is
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        dist: Dist,
        keep: int,
        about: Mapping,
        parallel: Parallel | None = None,
    ) -> None:
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.dist = dist
        self.keep = keep
        self.about = dict(about)
        self.parallel = parallel or Replicated(trainable_parameters(model), dist)
        self._at: Path | None = None  # the checkpoint that holds the current state
        self._components: dict[str, Any] | None = None  # frozen parts do not change: fingerprinted once

    def latest(self) -> Path | None:
        """The newest complete checkpoint; None if there is none."""
        found = checkpoints(self.folder)
        return found[-1] if found else None

    def save(self, state: TrainState) -> Path:
        """Write a checkpoint to a temporary folder and rename it, so that it is complete or absent; returns its path.

        raises  TrainingError on every rank if it could not be written, for example on a full disk
        """
        target = self.folder / f"step_{state.step:06d}"
        if self._components is None and (self.dist.is_main or is_sharded(self.model.parameters())):
            self._components = describe_components(self.model)  # a sharded part needs every rank
        if target == self._at:
            return target
        temporary = self.folder / f".writing_{target.name}"
        self._together(target, lambda: self._begin(temporary))
        moments, shards = optimizer_state(self.optimizer, self.parallel.parameters), {}
        if self.parallel.sharded:
            write = partial(write_shards, temporary, self.parallel, moments, self.dist)
            shards = self._together(target, write, on_every_rank=True)
        whole = whole_moments(self.parallel, moments)
        self._together(target, lambda: self._finish(temporary, target, state, whole, shards))
        self._at = target
        return target

    def _together(self, target: Path, write: Callable[[], Any], on_every_rank: bool = False) -> Any:
        """Run a part of a save on rank 0 or on every rank; what it returned there, None elsewhere.

        raises  TrainingError on every rank if it failed on one. Earlier checkpoints remain
        """
        result, problem = None, None
        try:
            result = write() if self.dist.is_main or on_every_rank else None
        except (OSError, SafetensorError, RuntimeError) as error:
            problem = self._not_saved(target, error)
        problem = next(filter(None, self.dist.gather(problem)), None)
        if problem is not None:
            if self.dist.is_main:
                shutil.rmtree(self.folder / f".writing_{target.name}", ignore_errors=True)
            raise TrainingError(problem if self.dist.is_main else OTHER_RANKS)
        return result

    def _begin(self, temporary: Path) -> None:
        self.remove_leftovers()
        temporary.mkdir(parents=True)

    def _finish(self, temporary: Path, target: Path, state: TrainState, moments: Any, shards: Mapping) -> None:
        """Write what is whole and the manifest, and make the folder a checkpoint."""
        self._write(temporary, state, moments, shards)
        _make_way(target)
        os.replace(temporary, target)
        _flush_folder(self.folder)
        self.prune()

    def _not_saved(self, target: Path, error: Exception) -> str:
        size = sum(tensor.numel() * tensor.element_size() for tensor in trainable_parameters(self.model).values())
        needed = 3 * size  # the weights and the two moments of AdamW
        system = underlying_os_error(error)
        reason = system.strerror if system is not None and system.strerror else str(error).splitlines()[0]
        free = shutil.disk_usage(self.folder if self.folder.exists() else self.folder.parent).free
        latest = self.latest()
        return (
            f"{target} could not be written: {reason} (a checkpoint needs about {needed / 1e6:,.1f} MB, "
            f"{free / 1e6:,.1f} MB are free); the incomplete checkpoint was removed. Free disk space, or choose "
            f"another run.output_dir; the same command resumes from {latest or 'the beginning'}"
        )

    def load(self, checkpoint: Path) -> TrainState:
        """Restore model and optimizer from a checkpoint; returns its state.

        raises  UnusableCheckpoint if a file is damaged; ValueError with a table if names, shapes or frozen weights
                differ
        """
        manifest, _ = read_checked(checkpoint, RESUMED)
        state = read_train_state(checkpoint)
        trainable = trainable_parameters(self.model)
        stored = under_own_names(self.model, trained_shapes(checkpoint))
        carried = under_own_names(self.model, dict.fromkeys(manifest.get("carried", ()), torch.empty(0)))
        own = self.model.state_dict()
        held = {name: own[name] for name in carried if name in own}
        if problems := mismatches({**trainable, **held}, stored):
            raise ValueError(f"{checkpoint} has different trainable tensors than this run:\n" + "\n".join(problems))
        tokenizer = self.about.get("tokenizer", {}).get("fingerprint")
        changed = changed_frozen_parts(self.model, manifest, stored) + changed_tokenizer(tokenizer, manifest)
        changed += changed_chat_template(self.about.get("template"), manifest)
        if changed := changed + changed_preprocessing(self.about.get("preprocessing"), manifest):
            raise ValueError(f"{checkpoint} was trained with different frozen weights:\n" + "\n".join(changed))
        carry(self.model, held)
        named = {**{name: parameter.detach() for name, parameter in trainable.items()}, **carried_tensors(self.model)}
        read_into(checkpoint, named)
        moments = read_moments(checkpoint, self.parallel, read_pickle(checkpoint / OPTIMIZER))
        load_optimizer_state(self.optimizer, self.parallel.parameters, moments)
        self._at = checkpoint
        return state

    def _write(self, folder: Path, state: TrainState, moments: Mapping[str, Any], shards: Mapping[str, Any]) -> None:
        sharded = self.parallel.sharded
        whole = {name: p for name, p in self.parallel.parameters.items() if name not in sharded}
        whole |= carried_tensors(self.model)
        save_file({name: p.detach().contiguous().cpu() for name, p in whole.items()}, folder / WEIGHTS)
        usual_mode(folder / WEIGHTS)
        with errors_name_file(folder / OPTIMIZER), (folder / OPTIMIZER).open("wb") as file:
            torch.save(moments, file)
        (folder / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        for name in (WEIGHTS, OPTIMIZER, STATE):
            sync_to_disk(folder / name)
        write_manifest(folder, self._manifest(state.step), shards)

    def _manifest(self, step: int) -> dict[str, Any]:
        carried = sorted(carried_tensors(self.model))
        about = {**self.about, **({"carried": carried} if carried else {})}
        return {"format": FORMAT, "step": step, **about, "components": self._components, "versions": _versions()}

    def prune(self) -> None:
        """Remove the checkpoints before the newest `keep`, except the best one. On rank 0."""
        try:
            best = best_checkpoint(self.folder.parent)
            for path in (path for path in checkpoints(self.folder)[: -self.keep] if path != best):
                os.replace(path, self.folder / f".old_{path.name}")  # a partial one must not be a checkpoint
            self.remove_leftovers()
        except OSError as error:  # the new checkpoint is complete; the next save tries again
            log.warning("older checkpoints in %s could not be removed: %s", self.folder, error)

    def remove_leftovers(self) -> None:
        """Remove incomplete folders of a save or a removal that was killed."""
        for path in [*self.folder.glob(".old_step_*"), *self.folder.glob(".writing_step_*")]:
            shutil.rmtree(path)


def read_train_state(checkpoint: Path) -> TrainState:
    """The state in a checkpoint. raises UnusableCheckpoint if its file is missing, damaged or of another version"""
    path = checkpoint / STATE
    content = read_json(path)
    if not isinstance(content, dict):
        raise UnusableCheckpoint(f"{path}: expected a JSON mapping")
    known = {field.name for field in fields(TrainState)}
    if lost := sorted({"step", "seed", "global_batch"} - content.keys()):
        raise UnusableCheckpoint(f"{path}: {', '.join(lost)} is missing")
    if unknown := sorted(content.keys() - known):
        names = ", ".join(map(repr, unknown[:5]))[:200]
        raise UnusableCheckpoint(f"{path}: written by another version: {names} is not known to this version")
    sizes = content.get("sizes", {})
    numbers = [content.get(name, 0) for name in known - {"sizes", "seed"}]
    if not isinstance(sizes, dict) or not all(map(is_count, (*numbers, *sizes.values()))):
        raise UnusableCheckpoint(f"{path}: expected counts (whole numbers of at least 0)")
    if not isinstance(content["seed"], int) or isinstance(content["seed"], bool):
        raise UnusableCheckpoint(f"{path}: seed is not a whole number")
    return TrainState(**content)


def _make_way(target: Path) -> None:
    """Rename anything with the name of a new checkpoint; this run did not write it."""
    if not target.exists():
        return
    number = 1 + sum(1 for _ in target.parent.glob(f"{target.name}.replaced-*"))
    aside = target.with_name(f"{target.name}.replaced-{number}")
    os.replace(target, aside)
    log.warning("%s has the name of a new checkpoint and was renamed to %s", target, aside.name)


def _flush_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure."""
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
