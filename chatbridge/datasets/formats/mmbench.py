"""MMBench: a table of tab-separated values, a row per question, with the image as base64 in a cell.

columns   index, image, question, A, B; optional: hint, C, D, E (to Z), answer (a letter; absent in test splits),
          category, l2-category. Further ones are ignored.
index     a whole number. The files of July 2023 hold every question once per option, with the options rotated: the
          copies have the index of the question + 1,000,000, + 2,000,000 and so on.
image     base64, or the index of another row, whose image is shared

Text is used as it is: pandas, with which the file is often read, takes options such as "None" or "NA" for empty cells.

Source: open-compass/MMBench.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from string import ascii_uppercase

from chatbridge.common.errors import DataError, nearest
from chatbridge.datasets.formats.records import Parsed
from chatbridge.datasets.formats.tsv import RowSpan, cells, row_spans, without_images

COPY = 1_000_000  # added to the index of a question for each of its copies
NEEDED = ("index", "image", "question", "A", "B")
KEPT = ("category", "l2-category", "split")  # columns for groups of results
LONGEST_INDEX = 20  # characters of an image cell that is the index of another row


@dataclass(frozen=True)
class ChoiceQuestion:
    """One row. span: where its image is: its own row, or the row that it names."""

    index: int
    span: RowSpan
    question: str
    hint: str
    options: Mapping[str, str]
    answer: str
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> int:
        """Index of the question that this row is a copy of, or its own."""
        return self.index % COPY

    @property
    def copy(self) -> int:
        """0 for a question as it is, 1, 2, ... for its copies with rotated options."""
        return self.index // COPY

    def rotated(self, by: int) -> ChoiceQuestion:
        """The copy in which every letter has the option that is `by` places further on."""
        letters = list(self.options)
        moved = {letters[(number - by) % len(letters)]: text for number, text in enumerate(self.options.values())}
        answer = letters[(letters.index(self.answer) - by) % len(letters)] if self.answer else ""
        options = {letter: moved[letter] for letter in letters}
        return replace(self, index=self.index + by * COPY, options=options, answer=answer)


def mmbench(path: Path) -> Iterator[Parsed[ChoiceQuestion]]:
    """The questions in the order of the file. raises DataError for a file with other columns"""
    names = columns(path)
    lines: dict[int, int] = {}  # index -> its line
    spans: dict[int, RowSpan] = {}
    for span, content in islice(row_spans(path), 1, None):
        place = f"line {span.line}"
        try:
            found, image = _question(names, cells(without_images(content)), span)
            if found.index in lines:
                raise ValueError(f"index {found.index} is defined twice, first in line {lines[found.index]}")
            lines[found.index] = span.line
            if len(image) > LONGEST_INDEX or not image.isdecimal():
                spans[found.index] = span
            elif (shared := spans.get(int(image))) is None:
                raise ValueError(f"'image' is {image}, which is not the index of an earlier row with an image")
            else:
                found = replace(found, span=shared)
        except ValueError as error:
            yield Parsed(place, None, str(error))
        else:
            yield Parsed(place, found)


def columns(path: Path) -> list[str]:
    """The names of the columns, in order. raises DataError when needed ones are missing"""
    try:
        names = next((cells(content) for _, content in row_spans(path)), [])
    except ValueError:
        raise DataError(f"{path}: is not UTF-8 text, expected a table of tab-separated values (.tsv)") from None
    absent = [name for name in NEEDED if name not in names]
    if not absent and len(set(names)) == len(names):
        return names
    if not absent:
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: has the column {double!r} twice")
    if len(names) == 1 and set(NEEDED) <= set(names[0].split(",")):
        raise DataError(f"{path}: its columns are separated by commas; expected tabs, as MMBench publishes them")
    meant = nearest(absent[0], names)
    guess = f"; is {meant!r} meant for {absent[0]!r}?" if meant else ""
    there = ", ".join(names)[:200] or "none"
    raise DataError(f"{path}: has no column {', '.join(absent)}; its columns: {there}{guess}")


def _question(names: Sequence[str], row: Sequence[str], span: RowSpan) -> tuple[ChoiceQuestion, str]:
    """The question of a row, and its image cell. raises ValueError with what is wrong"""
    if len(row) != len(names):
        raise ValueError(f"has {len(row)} cells, expected {len(names)}")
    cell = dict(zip(names, row, strict=True))
    index = cell["index"].strip().removesuffix(".0")  # a number that pandas made a float
    if not index.isdecimal():
        raise ValueError(f"'index' is {cell['index'][:40]!r}, expected a whole number")
    if not cell["question"].strip():
        raise ValueError("'question' is empty")
    letters = [letter for letter in ascii_uppercase if cell.get(letter, "").strip()]
    if len(letters) < 2 or letters != list(ascii_uppercase[: len(letters)]):
        raise ValueError(f"has the options {', '.join(letters) or 'none'}, expected at least A and B, without gaps")
    answer = cell.get("answer", "").strip()
    if answer and answer not in letters:
        raise ValueError(f"'answer' is {answer[:40]!r}, expected one of its options: {', '.join(letters)}")
    options = {letter: cell[letter].strip() for letter in letters}
    kept = {name: cell[name] for name in KEPT if name in cell}
    hint = cell.get("hint", "").strip()
    found = ChoiceQuestion(int(index), span, cell["question"].strip(), hint, options, answer, kept)
    return found, cell["image"].strip()
