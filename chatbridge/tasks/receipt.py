"""The receipt of an evaluation: hashes of everything that its numbers depend on, by parts that can be compared.

    receipt.json   {"format", "tasks": {task: {"digest", "answers", "parts", "settings", "files", "predictions"}},
                    "environment"}
    parts          part -> hash of its settings
    digest         of all parts: equal digests mean equal numbers
    answers        of all parts but `scoring`: equal ones mean equal answers, which may be scored in different ways
    environment    versions, device, processes, batch sizes; they are in no hash, since numbers may differ by them only
                   where a library or a device rounds differently

Names of files and folders are in no hash: the same content has the same receipt on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text

RECEIPT = "receipt.json"
FORMAT = "chatbridge-receipt-1"
NEXT_STEP = "evaluate again, or remove it"  # of a receipt that cannot be used
LENGTH = 16  # hexadecimal digits of a hash
PARTS = {  # what a receipt has a hash of -> what it covers
    "data": "the questions, their references and media",
    "prompt": "the texts around the media, before the chat template",
    "task": "the kind of the task and its settings",
    "decoding": "how answers are generated",
    "media": "how images, videos and audio become inputs",
    "model": "the settings of the model",
    "weights": "every value of the model",
    "tokenizer": "the vocabulary and how text is split",
    "template": "the chat template",
    "numerics": "the precision and the kind of device",
    "code": "ChatBridge's code without its comments, and without that of its metrics",
    "scoring": "the metrics, their settings and their code",
}
SCORING = "scoring"
Settings = Mapping[str, Any]  # part -> plain values, which its hash is made of


@dataclass(frozen=True)
class TaskReceipt:
    """The receipt of one task. A part whose settings are None is not known (weights, before they are read).

    files        setting of the data set -> {"name", "sha256"} of the file; the content counts in `data` by its records
    predictions  {"file", "sha256"} of the answers; None before there are any
    """

    settings: Settings
    files: Mapping[str, Any] = field(default_factory=dict)
    predictions: Mapping[str, str] | None = None

    @property
    def parts(self) -> dict[str, str | None]:
        return {name: None if value is None else digest_of(value) for name, value in self.settings.items()}

    @property
    def digest(self) -> str | None:
        """None as long as a part is not known."""
        return _combined(self.parts)

    @property
    def answers(self) -> str | None:
        """The digest without the part `scoring`."""
        return _combined({name: value for name, value in self.parts.items() if name != SCORING})

    @property
    def plain(self) -> dict[str, Any]:
        """As in receipt.json."""
        found = {"digest": self.digest, "answers": self.answers, "parts": self.parts, "settings": dict(self.settings)}
        return {**found, "files": dict(self.files), "predictions": self.predictions and dict(self.predictions)}


@dataclass(frozen=True)
class Receipt:
    """The receipts of all tasks of an evaluation, and where it ran."""

    tasks: Mapping[str, TaskReceipt]
    environment: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write receipt.json atomically; returns its path."""
        tasks = {name: one.plain for name, one in self.tasks.items()}
        content = {"format": FORMAT, "tasks": tasks, "environment": dict(self.environment)}
        replace_text(folder / RECEIPT, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")
        return folder / RECEIPT


class Difference(NamedTuple):
    """One setting of a part with two values; absent on one side: None."""

    part: str
    setting: str
    here: Any
    there: Any

    def __str__(self) -> str:
        name = self.setting.removeprefix(f"{self.part}.")
        return f"{self.part}: {name} is {_short(self.here)} and {_short(self.there)}"


def digest_of(value: Any) -> str:
    """16 hexadecimal digits of plain values; the order of keys makes no difference."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt in the folder of an evaluation; None if it has none, as those of earlier versions.

    raises   DataError for a file that is no receipt, or whose hashes are not those of its settings
    """
    path = folder / RECEIPT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{path}: has the format {content['format']!r}, this version reads {FORMAT!r}; {NEXT_STEP}")
        tasks = {
            name: TaskReceipt(dict(one["settings"]), dict(one["files"]), _predictions(one["predictions"]))
            for name, one in content["tasks"].items()
        }
        environment = dict(content["environment"])
        edited = [name for name, one in tasks.items() if one.parts != content["tasks"][name]["parts"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as a receipt ({error}); {NEXT_STEP}") from None
    if edited:
        raise DataError(
            f"{path}: was edited: the hashes of {', '.join(edited)} are not those of their settings; {NEXT_STEP}"
        )
    return Receipt(tasks, environment)


def _predictions(found: Any) -> dict[str, str] | None:
    """raises KeyError or TypeError for anything but the name and sha256 of a file"""
    return None if found is None else {key: Path(found[key]).name for key in ("file", "sha256")}


def differences(here: TaskReceipt, there: TaskReceipt) -> list[Difference]:
    """The settings by which two receipts differ, by part in the order of PARTS. Empty: equal numbers are expected."""
    found: list[Difference] = []
    for part in dict.fromkeys([*PARTS, *here.settings, *there.settings]):
        mine, other = here.settings.get(part), there.settings.get(part)
        if digest_of(mine) != digest_of(other):
            left, right = _flat(mine, part), _flat(other, part)
            names = dict.fromkeys([*left, *right])
            found += [
                Difference(part, name, left.get(name), right.get(name))
                for name in names
                if digest_of(left.get(name)) != digest_of(right.get(name)) or (name in left) != (name in right)
            ]
    return found


def environment_differences(here: Receipt, there: Receipt) -> list[Difference]:
    """What differs by machine, versions and batch sizes of tasks that both have: in no hash, but a reason for other
    rounding."""
    left, right = (
        _flat(_of_tasks(one, here.tasks.keys() & there.tasks.keys()), "environment") for one in (here, there)
    )
    names = [name for name in dict.fromkeys([*left, *right]) if left.get(name) != right.get(name)]
    return [Difference("environment", name, left.get(name), right.get(name)) for name in names]


def _of_tasks(receipt: Receipt, tasks: Collection[str]) -> dict[str, Any]:
    """The environment, with the batch sizes of these tasks alone."""
    sizes = receipt.environment.get("batch_size")
    if not isinstance(sizes, Mapping):
        return dict(receipt.environment)
    return {**receipt.environment, "batch_size": {name: size for name, size in sizes.items() if name in tasks}}


def changed_predictions(folder: Path, receipt: Receipt) -> list[str]:
    """Names of the tasks whose file of predictions is missing, or is not the one of the receipt."""
    return [
        name
        for name, one in receipt.tasks.items()
        if one.predictions and file_sha256(folder / one.predictions["file"]) != one.predictions["sha256"]
    ]


def receipt_of_file(predictions: Path, references: Path | None, scoring: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt of scores that are made from a file alone: equal digests mean equal scores.

    references   a file of them, where the predictions have none
    scoring      see experiment.receipt.scoring_settings
    """
    found = {"predictions": file_sha256(predictions), "scoring": digest_of(scoring)}
    found |= {} if references is None else {"references": file_sha256(references)}
    return {"digest": digest_of(found), **found}


def file_sha256(path: Path) -> str | None:
    """sha256 of the content of a file; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def summary(receipt: Receipt) -> list[str]:
    """A line per task with its digest, for the terminal. Where a part is not known there is no digest: then the hash
    of each part, those of all tasks in one line."""
    parts = [one.parts for one in receipt.tasks.values()]
    if all(None not in one.values() for one in parts):
        return [f"{name}: {one.digest}" for name, one in receipt.tasks.items()]
    shared = {part: value for part, value in parts[0].items() if all(one.get(part) == value for one in parts)}
    lines = [f"all tasks: {_hashes(shared)}"] if len(parts) > 1 else []
    apart = [{part: value for part, value in one.items() if part not in shared} for one in parts]
    return lines + [
        f"{name}: {_hashes(own if len(parts) > 1 else whole)}"
        for name, own, whole in zip(receipt.tasks, apart, parts, strict=True)
    ]


def _hashes(parts: Mapping[str, str | None]) -> str:
    return ", ".join(f"{part} {'not read yet' if value is None else value[:8]}" for part, value in parts.items())


def _combined(parts: Mapping[str, str | None]) -> str | None:
    return None if None in parts.values() else digest_of(parts)


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Dotted path -> value of everything inside nested mappings."""
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}")
    return found


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (Sequence, dict)) else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
