"""Which checkpoint a run resumes from: the newest one whose files are what was written, the same one on every rank."""

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
    """A checkpoint that can be trusted.

    notes   for people: newer checkpoints that were passed over, each with its reason; files without checksums
    """

    checkpoint: Path
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([str(self.checkpoint), *(f"  {note}" for note in self.notes)])


def resume_point(newest: Path | None, run: RunConfig, dist: Dist) -> ResumePoint | None:
    """The checkpoint to resume from: `newest`, or the newest sound one before it. Rank 0 looks, all get its choice.

    newest  what `plan_start` found; None: the run starts at step 0
    raises  ConfigError on every rank when `run.resume` names one that is unusable, or all of them are
    """
    if newest is None:
        return None
    found: ResumePoint | Problem | None = None
    if dist.is_main:
        is_named = isinstance(run.resume, Path) and run.resume.resolve() == newest.resolve()
        found = _named(newest) if is_named else _newest_sound(newest)
    found = dist.gather(found)[0]
    assert found is not None
    if isinstance(found, Problem):
        raise ConfigError([found])
    return found


def check_resumable(checkpoint: Path) -> tuple[str, ...]:
    """Notes about a checkpoint that a run can resume from, as far as its files can tell.

    raises  UnusableCheckpoint with the file and the reason
    """
    manifest, notes = read_checked(checkpoint, RESUMED)
    state = read_train_state(checkpoint)
    if state.step != manifest["step"]:
        raise UnusableCheckpoint(
            f"{checkpoint / 'state.json'}: is of step {state.step}, {manifest['step']} is expected"
        )
    if not has_checksums(manifest):  # only reading them tells whether they are whole
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
        others = [other for other in reversed(_candidates(checkpoint)) if other != checkpoint and _is_sound(other)]
        hint = f"{REMEDY}" + (f"; the newest sound one beside it is {others[0]}" if others else "")
        return Problem("run.resume", message, hint=f"{rest}\n{hint}".strip())


def _newest_sound(newest: Path) -> ResumePoint | Problem:
    passed: list[str] = []
    for checkpoint in reversed(_candidates(newest)):
        try:
            notes = check_resumable(checkpoint)
        except UnusableCheckpoint as error:
            passed.append(f"passed over {checkpoint.name}: {error}")
            continue
        return ResumePoint(checkpoint, (*passed, *notes))
    folder = newest.parent
    ways = [
        *passed,
        f"{REMEDY};",
        f"or start anew: mv {folder} {folder.with_name(folder.name + '.damaged')} and the same command again",
    ]
    return Problem("run.resume", f"none of the checkpoints in {folder} can be used", hint="\n".join(ways))


def _candidates(newest: Path) -> list[Path]:
    """Checkpoints beside one, up to it, oldest first; folders that lost their manifest are among them."""
    if not is_step(newest):
        return [newest]
    return [path for path in step_folders(newest.parent) if step_of(path) <= step_of(newest) and has_files(path)]


def _is_sound(checkpoint: Path) -> bool:
    try:
        check_resumable(checkpoint)
    except UnusableCheckpoint:
        return False
    return True
