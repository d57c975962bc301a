"""An annotation file with its own manifest.

    data/multis/img_vqa_vqav2.json               a list of records
    data/multis/img_vqa_vqav2.manifest.json      counts, checksums and inputs
    data/multis/img_vqa_vqav2.skipped.jsonl      the records that cannot be used, each with its reason

The annotations of all sets of MULTIS are in one folder, so a manifest is named after its file.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.text_repair import repaired
from dataset_prep.common import arguments
from dataset_prep.common.manifest import MadeFile, part_of, sha256, write_json, write_text

Record = dict[str, Any]


class AnnotationFile:
    """Writes records as one file, unless it exists already with the same inputs.

    path       of the list
    made_by    module of the script
    inputs     argument -> its file; the checksums are in the manifest
    layout     list: [record, ...]; lines: a record per line; ids: {id: record, ...} from records {id: record}; any
               other word: {word: [record, ...]}
    made_with  all other values that the content depends on
    raises     DataError when the list is one of the inputs
    """

    def __init__(self, path: Path, made_by: str, inputs: Mapping[str, Path], layout: str = "list", **made_with: Any):
        self.path, self.made_by, self.layout = path, made_by, layout
        for name, file in inputs.items():
            if path.exists() and path.samefile(file):
                raise DataError(
                    f"{path}: would replace the file of --{name} that it is made from; choose another --out"
                )
        sums = {name: f"sha256 {sha256(file)}" for name, file in inputs.items()}
        self.made_with = json.loads(json.dumps({**sums, **made_with}))
        self.skipped: list[dict[str, str]] = []

    def is_made(self) -> bool:
        """Whether the list exists, has the same inputs, and is unchanged."""
        try:
            before = json.loads(self._manifest.read_text(encoding="utf-8"))
            files = [MadeFile(**file) for file in before["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        is_whole = all(file.is_at(self.path.parent) and sha256(self.path) == file.sha256 for file in files)
        return bool(files) and is_whole and before["made_with"] == self.made_with

    def skip(self, record: str, reason: str, detail: str = "") -> None:
        """Record that a record cannot be used; the manifest counts by reason."""
        entry = {"id": record, "reason": reason, "detail": detail}
        self.skipped.append({key: value for key, value in entry.items() if value})

    def write(self, records: Iterable[Record]) -> str:
        """Write the list and its manifest; returns a summary.

        raises   DataError when no record can be used
        """
        if self.is_made():
            return f"{self.path}: already done, with the same inputs"
        count = self._write_list(records)
        counts = dict(sorted(Counter(entry["reason"] for entry in self.skipped).items()))
        lines = "".join(repaired(json.dumps(entry, ensure_ascii=False)) + "\n" for entry in self.skipped)
        write_text(self._beside("skipped.jsonl"), lines)
        summary = "".join(f"\n  skipped {number:,}: {reason}" for reason, number in counts.items())
        if not count:
            raise DataError(f"{self.path}: no record can be used{summary}\n  see {self._beside('skipped.jsonl')}")
        file = MadeFile.of(self.path.parent, self.path.name, count)
        head = {"name": self.path.stem, "made_by": self.made_by, "made_with": self.made_with}
        write_json(self._manifest, {**head, "files": [asdict(file)], "samples": count, "skipped": counts})
        return f"{self.path}: {count:,} records{summary}"

    def _write_list(self, records: Iterable[Record]) -> int:
        """Write a record per line and return their number; without any, the file is not replaced."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part, count = part_of(self.path), 0
        head, between, end = _frame(self.layout)
        try:
            with part.open("w", encoding="utf-8") as stream:
                for record in records:
                    text = repaired(json.dumps(record, ensure_ascii=False))
                    stream.write((between if count else head) + (text[1:-1] if self.layout == "ids" else text))
                    count += 1
                stream.write(end)
            if count:
                part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
        return count

    @property
    def _manifest(self) -> Path:
        return self._beside("manifest.json")

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.{ending}")


def _frame(layout: str) -> tuple[str, str, str]:
    """The text before, between and after the records."""
    named = (f'{{"{layout}": [\n', ",\n", "\n]}\n")
    frames = {"list": ("[\n", ",\n", "\n]\n"), "lines": ("", "\n", "\n"), "ids": ("{\n", ",\n", "\n}\n")}
    return frames.get(layout, named)


def shown(records: Iterable[Any], name: str) -> Iterator[Any]:
    """The records, with a progress bar."""
    from tqdm import tqdm

    return iter(tqdm(records, desc=name, unit=" records", unit_scale=True, disable=None))


def parser(description: str | None, program: str, out: str = "data/multis") -> argparse.ArgumentParser:
    """A parser with --out and --limit, for the scripts that write annotation files into the folder `out`."""
    made = argparse.ArgumentParser(
        prog=f"python -m {program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=Path(out), help=f"folder of the lists (default: {out})")
    made.add_argument("--limit", type=arguments.positive, help="use only the first N records", metavar="N")
    return made
