"""The answers of an evaluation that has not ended yet: the same command resumes after a stop or a kill.

    partial/<task>.json            digests of what the answers depend on
    partial/<task>.jsonl           the answers that earlier starts have left
    partial/<task>.rank0.jsonl     a line per question answered since, written as soon as its batch is done

Another model, checkpoint, data file or setting of the task begins again. Questions that could not be read are tried
again. The folder is removed when the evaluation is complete; a further one then starts from nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.dist import Dist
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import errors_name_file, read_json_lines, replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.config.schema import plain
from chatbridge.tasks.base import FREE, Prediction, Task

log = get_logger(__name__)
FOLDER = "partial"


def is_unfinished(folder: Path) -> bool:
    """Whether an evaluation was stopped in this folder, or runs there: the same command goes on with its answers."""
    return (folder / FOLDER).is_dir() and not (folder / "metrics.json").exists()


class PartialAnswers:
    """The folder `partial` of an evaluation; every rank makes one.

    folder     of the evaluation
    made_with  what all answers depend on: model, checkpoint, template, limits; by names for messages
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any], dist: Dist) -> None:
        self.folder = folder / FOLDER
        self.made_with = dict(made_with)
        self.dist = dist

    def kept(self, task: Task, is_whole: Callable[[Prediction], bool] = lambda row: True) -> dict[int, Prediction]:
        """index -> the answer of an earlier start. Every rank calls it.

        is_whole   whether everything that an answer names is there; others are answered again
        """
        found = self._read(task, is_whole) if self.dist.is_main else {}
        return self.dist.gather(found)[0]

    def keep(self, task: Task, rows: Iterable[Prediction]) -> Iterator[Prediction]:
        """The rows, each written before it is passed on. raises OSError that names the file"""
        path = self.folder / f"{task.name}.rank{self.dist.rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with errors_name_file(path), path.open("w", encoding="utf-8") as file:
            for row in rows:
                if "problem" not in row:
                    file.write(_line(row))
                    file.flush()
                yield row

    def remove(self) -> None:
        """Remove the folder: the evaluation is complete. The main rank calls it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, task: Task, is_whole: Callable[[Prediction], bool]) -> dict[int, Prediction]:
        """Collect the answers of earlier starts into one file; none of them if something they depend on has changed."""
        whole, settings = self.folder / f"{task.name}.jsonl", self.folder / f"{task.name}.json"
        now = {name: _digest(value) for name, value in {**self.made_with, **_settings(task)}.items()}
        begun = sorted(path for path in self.folder.glob("*.jsonl") if path.name.startswith(f"{task.name}.rank"))
        parts = [whole, *begun] if whole.is_file() else begun
        before = _read_settings(settings)
        changed = [name for name in now if before.get(name) != now[name]] if parts else []
        rows = [] if changed else [row for path in parts for row in read_json_lines(path).records]
        if changed:
            log.warning("%s: answers of an earlier start are dropped: different %s", task.name, ", ".join(changed))
        found = {row["index"]: row for row in rows if _belongs(task, row) and is_whole(row)}
        replace_text(settings, json.dumps(now, indent=1))
        replace_text(whole, "".join(map(_line, found.values())))
        for path in begun:
            path.unlink()
        if found:
            log.info(
                "%s: %s of %s questions are answered already", task.name, f"{len(found):,}", f"{len(task.dataset):,}"
            )
        return found


def _settings(task: Task) -> dict[str, Any]:
    """The settings of a task that its answers depend on, and what its questions are read from."""
    settings = {name: value for name, value in plain(task.config).items() if name not in FREE}
    if not task.config.sample:
        settings.pop("batch_size", None)  # no answer depends on the other questions of its batch
    dataset = settings["dataset"]
    files = {name: _file_state(Path(value)) for name, value in dataset.items() if isinstance(value, str)}
    return {"data": [settings.pop("dataset"), files, len(task.dataset)], "settings of the task": settings}


def state(path: Path) -> Any:
    """Size and time of a file, or of the files in a folder by name; None where nothing is."""
    if not path.is_dir():
        return _file_state(path)
    return {one.name: _file_state(one) for one in sorted(path.iterdir())}


def _file_state(path: Path) -> list[int] | None:
    """None for a folder, which may hold a million images, and for text that is not a path."""
    try:
        return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
    except (OSError, ValueError):
        return None


def _belongs(task: Task, row: Mapping[str, Any]) -> bool:
    """Whether a line is the whole answer to a question of this task."""
    index = row.get("index")
    if not isinstance(index, int) or not 0 <= index < len(task.dataset) or "problem" in row:
        return False
    return isinstance(row.get("prediction"), str) and task.dataset.sample_id(index) == row.get("id")


def _read_settings(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _line(row: Mapping[str, Any]) -> str:
    return repaired(json.dumps(row, ensure_ascii=False, default=str)) + "\n"
