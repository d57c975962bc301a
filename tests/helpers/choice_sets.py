"""MME and MMBench in miniature, in the layouts of their releases."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.datasets.formats.mme import SUBJECTS
from tests.helpers.tiny_media import jpeg

APART = ("posters", "celebrity", "scene", "landmark", "artwork")  # subjects with folders of their own for images
COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "image")


def write_mme(folder: Path, subjects: Sequence[str] = SUBJECTS, images: int = 2) -> Path:
    """Every subject with `images` images, whose first question has the answer yes, in both placements of files."""
    for subject in subjects:
        place = folder / subject
        inner = {"artwork": "images/toy_dataset"}.get(subject, "images") if subject in APART else ""
        texts = place / "questions_answers_YN" if subject in APART else place
        (place / inner).mkdir(parents=True, exist_ok=True)
        texts.mkdir(exist_ok=True)
        for number in range(images):
            ending = "png" if number else "jpg"
            (place / inner / f"{number:04}.{ending}").write_bytes(jpeg(60 * number, side=32))
            lines = [f"Is {subject} {what}? Please answer yes or no.\t{answer}" for what, answer in
                     (("here", "Yes"), ("missing", "No"))]  # fmt: skip
            (texts / f"{number:04}.txt").write_text("\n".join(lines) + "\n")
    return folder


def image_cell(color: int = 0) -> str:
    return base64.b64encode(jpeg(color, side=32)).decode()


def question(index: int, answer: str | None = "A", /, **changed: Any) -> dict[str, Any]:
    """A row with three options. answer: None for a test split"""
    row = {"index": index, "question": f"What is number {index}?", "hint": "", "A": "a red circle", "B": "a blue disc",
           "C": "neither", "D": "", "category": "color", "l2-category": "perception",
           "image": image_cell(index % 250)}  # fmt: skip
    return {**row, **({} if answer is None else {"answer": answer}), **changed}


def write_mmbench(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """As pandas writes it: cells with tabs, line breaks or quotation marks are quoted."""
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    names += [name for name in dict.fromkeys(name for row in rows for name in row) if name not in names]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
