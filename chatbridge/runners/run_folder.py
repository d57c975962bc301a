"""The folder of a run. It belongs to one configuration: another one is refused, and nothing is overwritten."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from chatbridge.common.environment import changed, digests, with_references
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.log import get_logger
from chatbridge.common.rendezvous import restart_count
from chatbridge.common.safe_files import replace_text
from chatbridge.config.merge import load, save_resolved
from chatbridge.models.checkpoints import BEST, find_checkpoint, has_files, is_step, step_folders, step_of
from chatbridge.runners.config import RunConfig
from chatbridge.runners.renamed_settings import with_current_names

log = get_logger(__name__)
RESOLVED, METRICS, SCORES, LOCK = "resolved.yaml", "metrics.jsonl", "scores.jsonl", ".lock"
HELD_OUT = "held_out"  # in a line of scores.jsonl: validation is on other samples from this step on
ASKED = "asked"  # beside it: instead, these tasks ask other questions, or ask or score them differently, from here on
RESTART_WAIT_S = 60.0
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of file systems without locks
ENVIRONMENT = "environment.json"  # short digests of values from environment variables

# Settings that may change when a run resumes, because they do not affect its results. (micro_batch and accumulate do
# only through the global batch, which the checkpoint stores. Sharding changes the order of sums alone. Weights and
# tokenizers are compared by fingerprint, so files may move. A broken sample is replaced in the same way with and
# without a quarantine list.)
FREE = (
    "run.output_dir", "run.device", "run.threads", "run.log_every", "run.save_every", "run.keep", "run.resume",
    "run.stop_at", "run.validate_every", "run.evaluate", "run.best", "run.patience", "run.trackers", "run.profile",
    "run.micro_batch", "run.accumulate", "run.parallel", "run.sharding",
    "data.num_workers", "data.quarantine", "evaluation", "plugins",
    "run.activation_checkpointing", "run.compile", "run.stall_timeout_s", "run.on_stall",
    "data.feature_cache.folder",
)  # fmt: skip
FREE_NAMES = ("weights", "failure_budget", "attention")
Settings = Mapping[str, Any]


def plan_start(
    run: RunConfig, config: Settings, completed: Callable[[Settings], Settings] = lambda then: then
) -> Path | None:
    """The checkpoint to resume from, or None to start at step 0. Only reads files.

    After a restart by torchrun it is the newest checkpoint of the folder, whatever run.resume is: this command has
    written it.
    config     the complete configuration as plain mappings, with defaults
    completed  adds the defaults of settings that are newer than resolved.yaml
    raises     ConfigError if the folder has checkpoints of another configuration
    """
    found = [path for path in step_folders(run.output_dir / "checkpoints") if has_files(path)]
    if isinstance(run.resume, Path) and not (restart_count() and _is_later(found, run.resume)):
        return _named(run.resume)
    if not found:
        return None
    if run.resume == "never" and not restart_count():
        message = f"is never, but {run.output_dir} already has checkpoints (newest: {found[-1].name})"
        raise ConfigError([Problem("run.resume", message, hint=_ways_out(run.output_dir))])
    then = completed(read_resolved(run.output_dir))
    if changes := [*differences(then, config), *_changed_values(run.output_dir, config)]:
        message = f"{run.output_dir} has checkpoints of a run with other settings (before -> now)"
        ways = f"{_ways_out(run.output_dir)}\nor resume with the new settings deliberately: run.resume={found[-1]}"
        if not (run.output_dir / RESOLVED).is_file():
            message = f"{run.output_dir} has checkpoints but no {RESOLVED}, so their settings cannot be compared"
            changes, ways = [], f"restore the file, {ways}"
        raise ConfigError([Problem("run.output_dir", message, hint="\n".join([*changes, ways]))])
    return found[-1]


def _is_later(found: list[Path], named: Path) -> bool:
    """Whether the newest of these checkpoints was written after a start from `named`: later ones are moved aside."""
    start = find_checkpoint(named) if named.is_dir() else named
    return bool(found) and (not is_step(start) or step_of(found[-1]) > step_of(start))


def lock_run_folder(folder: Path) -> FileLock:
    """An acquired lock on training in a folder. The end of the process, even a kill, releases it as well.

    Two trainings in one folder would move, overwrite and remove each other's files. Loader workers of a killed process
    share its lock until they notice, within seconds: after a restart by torchrun it waits for them.

    raises  ConfigError if another process has the lock, OSError if the lock file cannot be opened
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, fallback_to_soft=False)  # a soft lock would outlive a process that was killed
    try:
        lock.acquire(timeout=RESTART_WAIT_S if restart_count() else 0)
    except Timeout:
        message, hint = f"{folder} is in use: another process trains in it", "stop that one, or choose another folder"
        raise ConfigError([Problem("run.output_dir", message, hint=hint)]) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:  # .lock is not a file, or may not be written
            raise
        log.debug("%s cannot be locked: %s", folder, error)
    return lock


def is_in_use(folder: Path) -> bool:
    """Whether a process trains in a run folder; also False where that cannot be tried."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0, fallback_to_soft=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def open_run_folder(folder: Path, config: Mapping[str, Any], step: int) -> None:
    """Prepare the folder for the step after `step`; call it on rank 0 once everything is built.

    A start at step 0 moves files of an earlier attempt to previous-1, previous-2, ... A resume drops the lines of
    metrics.jsonl and scores.jsonl after the checkpoint, which will be written again, and moves later checkpoints and
    evaluations, whose names the run needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if step == 0:
        _move_earlier_attempt(folder, config)
    _move_later_steps(folder, step)
    for name in (METRICS, SCORES):
        if step and (folder / name).is_file():
            _drop_lines_after(folder / name, step)
    save_resolved(config, folder / RESOLVED)
    if found := digests(config):
        replace_text(folder / ENVIRONMENT, json.dumps(found, indent=1) + "\n")
    else:
        (folder / ENVIRONMENT).unlink(missing_ok=True)


def read_resolved(folder: Path) -> dict[str, Any]:
    """The configuration of the folder's run; empty if the run ended before it was written."""
    path = folder / RESOLVED
    if not path.is_file():
        return {}
    settings, origins = load(path)
    return with_references(settings, origins.references)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines `key: before -> now` for the settings that differ and affect results."""
    old, new = _flat(with_current_names(now, then)), _flat(now)
    is_sliced = new.get("data.mix") == "micro" or new.get("data.group_window", 1) != 1
    sliced = {"run.micro_batch"} if is_sliced else set()  # it determines the data order
    sliced |= {"run.micro_batch"} if new.get("run.loss_mean") == "micro_batch" else set()  # or the loss
    sliced |= {"run.micro_batch", "run.accumulate"} if new.get("run.clip_every") == "micro" else set()
    keys = [key for key in dict.fromkeys([*old, *new]) if key in sliced or not is_free(key)]
    changed = [key for key in keys if _show(old, key) != _show(new, key)]
    return [f"{key}: {_show(old, key)} -> {_show(new, key)}" for key in changed] + _reordered(then, now)


def _reordered(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line when the same streams have another order: that of the micro-batches of a step, and the first one defines
    the epoch where epoch_stream is null."""
    before, after = (list((settings.get("data") or {}).get("streams") or {}) for settings in (then, now))
    is_moved = before != after and sorted(before) == sorted(after)
    return [f"order of data.streams: {', '.join(before)} -> {', '.join(after)}"] if is_moved else []


def _changed_values(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Lines for settings with the same reference to an environment variable and another value."""
    try:
        then = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = changed(then, config) if isinstance(then, dict) else []
    return [f"{key}: the value of {text} has changed" for key, text in found if not is_free(key)]


def is_free(key: str) -> bool:
    """Whether a setting may change when a run resumes."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE) or key.rpartition(".")[2] in FREE_NAMES


def _flat(mapping: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = f"{path}.{key}" if path else str(key)
        flat |= _flat(value, inner) if isinstance(value, Mapping) and value else {inner: value}
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "(not set)"


def _named(path: Path) -> Path:
    try:
        return find_checkpoint(path)
    except ValueError as error:
        raise ConfigError([Problem("run.resume", str(error))]) from None


def _ways_out(folder: Path) -> str:
    return f"choose another run.output_dir, or remove {folder}"


def _move_earlier_attempt(folder: Path, config: Mapping[str, Any]) -> None:
    names = (
        RESOLVED,
        ENVIRONMENT,
        METRICS,
        SCORES,
        BEST,
        "trackers.json",
        "run_card.json",
        "run_card.md",
        "failures.jsonl",
        "tensorboard",
        "evaluation",
    )
    files = [folder / name for name in names]
    files = [path for path in [*files, *folder.glob("not_finite_*.json")] if path.exists()]
    if (folder / METRICS).is_file() or differences(read_resolved(folder) or config, config):
        _move_aside(folder, files, "files of an earlier attempt without a checkpoint")


def _move_later_steps(folder: Path, step: int) -> None:
    """Needed if a run resumes from an older checkpoint, or starts in a folder with unusable ones."""
    evaluated = [path for path in folder.glob("evaluation/step_*") if is_step(path)]
    later = [path for path in [*step_folders(folder / "checkpoints"), *evaluated] if step_of(path) > step]
    if later:
        _move_aside(folder, later, f"checkpoints or evaluations of an earlier attempt after step {step}")


def _move_aside(folder: Path, paths: list[Path], what: str) -> None:
    aside = folder / f"previous-{1 + sum(1 for _ in folder.glob('previous-*'))}"
    log.warning("%s had %s; they were moved to %s", folder, what, aside.name)
    for path in paths:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)


def _drop_lines_after(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    kept = [line for line in lines if _step_of(line) <= step]
    replace_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity for a line that a crash truncated."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
