"""The folder of a run: it belongs to one configuration, and no other ever writes over it in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from chatbridge.common.environment import changed, digests, with_references
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import replace_text
from chatbridge.config.merge import load, save_resolved
from chatbridge.models.checkpoints import find_checkpoint, has_files, is_step, step_folders, step_of
from chatbridge.runners.config import RunConfig
from chatbridge.runners.renamed_settings import with_current_names

log = get_logger(__name__)
RESOLVED, METRICS, LOCK = "resolved.yaml", "metrics.jsonl", ".lock"
ENVIRONMENT = "environment.json"  # short digests of values that come from the environment

# Settings a run may change when it goes on: none of them reaches the numbers. (micro_batch and accumulate only through
# the global batch, which the checkpoint remembers; weights and tokenizers through fingerprints, so files may move. A
# broken sample is replaced alike whether it is in quarantine or not.)
FREE = (
    "run.output_dir", "run.device", "run.threads", "run.log_every", "run.save_every", "run.keep", "run.resume",
    "run.stop_at", "run.micro_batch", "run.accumulate", "data.num_workers", "data.quarantine", "evaluation", "plugins",
)  # fmt: skip
FREE_NAMES = ("weights", "failure_budget")
Settings = Mapping[str, Any]


def plan_start(
    run: RunConfig, config: Settings, completed: Callable[[Settings], Settings] = lambda then: then
) -> Path | None:
    """The checkpoint this run goes on from, or None for a start at step 0. Looks, touches nothing.

    config     the whole configuration as plain mappings, defaults filled in
    completed  adds the defaults of settings that the version which wrote resolved.yaml did not have
    raises     ConfigError when the folder holds the checkpoints of another configuration
    """
    if isinstance(run.resume, Path):
        return _named(run.resume)
    found = [path for path in step_folders(run.output_dir / "checkpoints") if has_files(path)]
    if not found:
        return None
    if run.resume == "never":
        message = f"is never, but {run.output_dir} already has checkpoints (the newest is {found[-1].name})"
        raise ConfigError([Problem("run.resume", message, hint=_ways_out(run.output_dir))])
    then = completed(read_resolved(run.output_dir))
    if changes := [*differences(then, config), *_changed_values(run.output_dir, config)]:
        message = f"{run.output_dir} holds checkpoints of a run with other settings (before -> now)"
        ways = f"{_ways_out(run.output_dir)}\nor go on with the new settings on purpose: run.resume={found[-1]}"
        if not (run.output_dir / RESOLVED).is_file():
            message = f"{run.output_dir} holds checkpoints but no {RESOLVED}, so their settings cannot be compared"
            changes, ways = [], f"restore the file, {ways}"
        raise ConfigError([Problem("run.output_dir", message, hint="\n".join([*changes, ways]))])
    return found[-1]


def hold(folder: Path) -> IO[str] | None:
    """The right to train in a folder while what is returned is open; it ends with the process, however that ends.

    Two trainings in one folder would set aside, write over and remove each other's files.

    raises  ConfigError when another process has it
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: the loader's workers would inherit that
    except (BlockingIOError, PermissionError):
        message, hint = f"{folder} is in use: another process trains in it", "end that one, or choose another folder"
        raise ConfigError([Problem("run.output_dir", message, hint=hint)]) from None
    except OSError:
        log.debug("%s cannot be locked here", folder)
    return file


def open_run_folder(folder: Path, config: Mapping[str, Any], step: int) -> None:
    """Make the folder ready for the step after `step`; call it on rank 0 once everything is built.

    A start at step 0 sets the traces of an earlier try aside (previous-1, previous-2, ...); going on drops the lines
    of metrics.jsonl behind the checkpoint, which will be written again, and sets later checkpoints and evaluations
    aside: they would stand in the place of what is trained now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if step == 0:
        _set_traces_aside(folder, config)
    _set_later_steps_aside(folder, step)
    if step and (folder / METRICS).is_file():
        _drop_lines_after(folder / METRICS, step)
    save_resolved(config, folder / RESOLVED)
    if found := digests(config):
        replace_text(folder / ENVIRONMENT, json.dumps(found, indent=1) + "\n")
    else:
        (folder / ENVIRONMENT).unlink(missing_ok=True)


def read_resolved(folder: Path) -> dict[str, Any]:
    """What the folder's run was configured as; empty when it never got that far."""
    path = folder / RESOLVED
    if not path.is_file():
        return {}
    settings, origins = load(path)
    return with_references(settings, origins.references)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines `key: before -> now` of the settings that matter and differ."""
    old, new = _flat(with_current_names(now, then)), _flat(now)
    sliced = {"run.micro_batch"} if new.get("data.mix") == "micro" else set()  # then it decides over the order
    keys = [key for key in dict.fromkeys([*old, *new]) if key in sliced or not is_free(key)]
    return [f"{key}: {_show(old, key)} -> {_show(new, key)}" for key in keys if _show(old, key) != _show(new, key)]


def _changed_values(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Settings whose reference to the environment is the same and whose value is not."""
    try:
        then = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = changed(then, config) if isinstance(then, dict) else []
    return [f"{key}: the value of {text} has changed" for key, text in found if not is_free(key)]


def is_free(key: str) -> bool:
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


def _set_traces_aside(folder: Path, config: Mapping[str, Any]) -> None:
    traces = [folder / name for name in (RESOLVED, ENVIRONMENT, METRICS, "failures.jsonl", "tensorboard", "evaluation")]
    traces = [path for path in [*traces, *folder.glob("not_finite_*.json")] if path.exists()]
    if (folder / METRICS).is_file() or differences(read_resolved(folder) or config, config):
        _set_aside(folder, traces, "traces of an earlier try without a checkpoint")


def _set_later_steps_aside(folder: Path, step: int) -> None:
    """When a run resumes from a checkpoint that is not the newest of its folder, or starts beside remains of one."""
    evaluated = [path for path in folder.glob("evaluation/step_*") if is_step(path)]
    later = [path for path in [*step_folders(folder / "checkpoints"), *evaluated] if step_of(path) > step]
    if later:
        _set_aside(folder, later, f"what an earlier try left behind step {step}")


def _set_aside(folder: Path, paths: list[Path], what: str) -> None:
    aside = folder / f"previous-{1 + sum(1 for _ in folder.glob('previous-*'))}"
    log.warning("%s holds %s; it is in %s now", folder, what, aside.name)
    for path in paths:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)


def _drop_lines_after(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    kept = [line for line in lines if _step_of(line) <= step]
    replace_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """A line that a crash cut off belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
