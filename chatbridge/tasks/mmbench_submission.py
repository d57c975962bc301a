"""The file that the official server of MMBench scores: an Excel sheet with a row per question.

Columns: question, A, B, C, D (and further letters that some question has), prediction, category, l2-category, index.
Every option is in the column of its letter. (TextBind's own script shifts them by one: A has the sentence before the
options, B has option A, and the last option is lost.)
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.extras import need
from chatbridge.common.safe_files import replace_bytes

EXCEL = "openpyxl"
LETTERS = ("A", "B", "C", "D")
GROUPS = ("category", "l2-category")
NOT_IN_CELLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that XML does not have
MOST_CHARACTERS = 32_767  # of a cell, in Excel


def write_submission(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the answers of predictions of the task mmbench. raises ImportError without openpyxl, OSError that
    names the file"""
    workbook = need(EXCEL, "the submission of MMBench").Workbook(write_only=True)
    cell_of = need(f"{EXCEL}.cell", "the submission of MMBench").WriteOnlyCell
    sheet = workbook.create_sheet("Sheet1")
    for row in sheet_rows(rows):
        cells = []
        for value in row:
            cell = cell_of(sheet, value)
            if isinstance(value, str):
                cell.data_type = "s"  # an option such as "=5" is text, not a formula
            cells.append(cell)
        sheet.append(cells)
    content = io.BytesIO()
    workbook.save(content)
    replace_bytes(path, content.getvalue())


def sheet_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str | int | None]]:
    """The head, then the values of every prediction. An unreadable question has no prediction."""
    used = {letter for row in rows for letter in row["details"]["options"]}
    letters = (*LETTERS, *sorted(used - set(LETTERS)))
    yield ["question", *letters, "prediction", *GROUPS, "index"]
    for row in rows:
        details = row["details"]
        options = [details["options"].get(letter) for letter in letters]
        texts = [details["question"], *options, row["prediction"], *(details.get(name) for name in GROUPS)]
        yield [*(text and _fitting(text) for text in texts), details["index"]]


def _fitting(text: str) -> str:
    """The text as a cell can hold it."""
    return NOT_IN_CELLS.sub("", text)[:MOST_CHARACTERS]
