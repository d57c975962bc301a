"""Chooses the checkpoint to resume from: the newest undamaged one, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.models.checkpoint_manifest import OPTIMIZER, WEIGHTS, UnusableCheckpoint, has_checksums
from chatbridge.models.checkpoints import REMEDY, has_files, is_step, read_checked, step_folders, step_of
from chatbridge.models.loading import read_pickle, read_state
from chatbridge.runners.checkpoint import RESUMED, read_train_state
from chatbridge.runners.config import RunConfig


@dataclass(frozen=True)
class ResumePoint:
    """An undamaged checkpoint.

    notes   messages for the user: newer checkpoints that were skipped, with the reasons; files without checksums
    """

    checkpoint: Path
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([str(self.checkpoint), *(f"  {note}" for note in self.notes)])


def resume_point(newest: Path | None, run: RunConfig, dist: Dist) -> ResumePoint | None:
    """The checkpoint to resume from: `newest`, or the newest undamaged one before it. Rank 0 chooses for all ranks.

    newest  from `plan_start`; None: the run starts at step 0
    raises  ConfigError on every rank if `run.resume` names a damaged one, or all of them are
    """
    if newest is None:
        return None
    found: ResumePoint | Problem | None = None
    if dist.is_main:
        is_named = isinstance(run.resume, Path) and run.resume.resolve() == newest.resolve()
        found = _named(newest) if is_named else _newest_undamaged(newest)
    found = dist.gather(found)[0]
    assert found is not None
    if isinstance(found, Problem):
        raise ConfigError([found])
    return found


def check_resumable(checkpoint: Path) -> tuple[str, ...]:
    """Check that a run can resume from a checkpoint; returns notes for the user.

    raises  UnusableCheckpoint with the file and the reason
    """
    manifest, notes = read_checked(checkpoint, RESUMED)
    state = read_train_state(checkpoint)
    if state.step != manifest["step"]:
        raise UnusableCheckpoint(
            f"{checkpoint / 'state.json'}: is of step {state.step}, expected step {manifest['step']}"
        )
    if not has_checksums(manifest):  # only reading them shows whether they are complete
        try:
            read_state(checkpoint / WEIGHTS)
            read_pickle(checkpoint / OPTIMIZER)
        except ValueError as error:
            raise UnusableCheckpoint(str(error)) from None
    return notes


def _named(checkpoint: Path) -> ResumePoint | Problem:
    try:
        return ResumePoint(checkpoint, check_resumable(checkpoint))
    except UnusableCheckpoint as error:
        message, _, rest = str(error).partition("\n")
        others = [other for other in reversed(_candidates(checkpoint)) if other != checkpoint and _is_undamaged(other)]
        hint = f"{REMEDY}" + (f"; the newest undamaged one is {others[0]}" if others else "")
        return Problem("run.resume", message, hint=f"{rest}\n{hint}".strip())


def _newest_undamaged(newest: Path) -> ResumePoint | Problem:
    skipped: list[str] = []
    for checkpoint in reversed(_candidates(newest)):
        try:
            notes = check_resumable(checkpoint)
        except UnusableCheckpoint as error:
            skipped.append(f"skipped {checkpoint.name}: {error}")
            continue
        return ResumePoint(checkpoint, (*skipped, *notes))
    folder = newest.parent
    ways = [
        *skipped,
        f"{REMEDY};",
        f"or start from step 0: mv {folder} {folder.with_name(folder.name + '.damaged')} and run the same command",
    ]
    return Problem("run.resume", f"no checkpoint in {folder} is usable", hint="\n".join(ways))


def _candidates(newest: Path) -> list[Path]:
    """The checkpoints of the same folder up to this one, oldest first, including those without a manifest."""
    if not is_step(newest):
        return [newest]
    return [path for path in step_folders(newest.parent) if step_of(path) <= step_of(newest) and has_files(path)]


def _is_undamaged(checkpoint: Path) -> bool:
    try:
        check_resumable(checkpoint)
    except UnusableCheckpoint:
        return False
    return True
