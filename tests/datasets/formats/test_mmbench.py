"""The table of MMBench: read row by row, and what is wrong with it is named with its line."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.mmbench import MMBench
from chatbridge.datasets.formats.tsv import row_at, row_spans
from tests.helpers.choice_sets import image_cell, question, write_mmbench


def opened(path: Path, **settings: Any) -> MMBench:
    return MMBench(parse(MMBench.Config, {"file": str(path), **settings}), "mmbench")


def test_quoted_cells_and_images(tmp_path: Path):
    """fails when a line break, tab or quotation mark in a cell shifts a row, or an image is taken from another row"""
    rows = [question(7, question='A "5""\tdisk"\nor not?', image=image_cell(10)), question(8, image=image_cell(200)),
            question(9, image="7")]  # fmt: skip
    dataset = opened(write_mmbench(tmp_path / "t.tsv", rows))
    records = [dataset.record(index, None) for index in range(3)]  # pyright: ignore[reportArgumentType]
    assert records[0].details["question"] == 'A "5""\tdisk"\nor not?' and records[1].id == "8"
    red = [Image.open(io.BytesIO(record.conversation[0].media[0].ref)).getpixel((0, 0))[0] for record in records]  # pyright: ignore
    assert abs(red[0] - 10) < 5 and abs(red[1] - 200) < 5 and red[2] == red[0]
    (tmp_path / "b.tsv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "t.tsv").read_bytes().replace(b"\n8", b"\r\n8"))
    assert [opened(tmp_path / "b.tsv").sample_id(index) for index in range(3)] == ["7", "8", "9"]


def test_quotation_marks_inside_a_cell(tmp_path: Path):
    """fails when a quotation mark in a cell without quotes joins two rows, of which one is lost"""
    head, rest = "index\timage\tquestion\tA\tB\n", f"\t{image_cell()}\t"
    rows = [f'{number}{rest}a {size}" disk?\t5"\tno "x\n' for number, size in enumerate((3, 5, 8))]
    (tmp_path / "t.tsv").write_text(head + "".join(rows))
    dataset = opened(tmp_path / "t.tsv")
    assert [dataset.details(index)["question"] for index in range(3)] == ['a 3" disk?', 'a 5" disk?', 'a 8" disk?']
    assert dataset.details(2)["options"] == {"A": '5"', "B": 'no "x'}
    (tmp_path / "t.tsv").write_bytes((head + rows[0].replace("disk", "di\rsk")).encode())
    with pytest.raises(DataError, match="line 2: has a line break outside quotation marks"):
        opened(tmp_path / "t.tsv")


def test_a_large_table_is_not_held(tmp_path: Path):
    """fails when opening a table keeps its images in memory"""
    cell = image_cell() + "A" * 200_000
    path = write_mmbench(tmp_path / "t.tsv", [question(number, image=cell) for number in range(40)])
    tracemalloc.start()
    dataset = opened(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 8_000_000 and held < 1_000_000 and peak < 4_000_000, (held, peak)
    assert len(dataset) == 40
    spans = [span for span, _ in row_spans(path)]
    assert [span.line for span in spans] == list(range(1, 42))
    assert row_at(path, spans[5].start, spans[5].length)[0] == "4"


@pytest.mark.parametrize(("rows", "message"), [
    ([question(1), question(1)], "line 3: index 1 is defined twice, first in line 2"),
    ([question(1, "D")], "'answer' is 'D', expected one of its options: A, B, C"),
    ([question(1, B="", C="")], "has the options A, expected at least A and B, without gaps"),
    ([question(1, B="")], "has the options A, C, expected"),
    ([question(1, index="x")], "'index' is 'x', expected a whole number"),
    ([question(1, question=" ")], "'question' is empty"),
    ([question(1), question(2, image="9")], "'image' is 9, which is not the index of an earlier row"),
])  # fmt: skip
def test_a_faulty_row_is_named(tmp_path: Path, rows: list[dict[str, Any]], message: str):
    """fails when a row that cannot be scored is asked, or the message does not name its line"""
    with pytest.raises(DataError) as error:
        opened(write_mmbench(tmp_path / "t.tsv", rows))
    assert message in str(error.value) and "1 record cannot be used" in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("", "has no column index, image, question, A, B; its columns: none"),
    ("index\timage\tquestion\tA\n", "has no column B"),
    ("index\tImage\tquestion\tA\tB\n1\tx\tq\ta\tb\n", "is 'Image' meant for 'image'"),
    ("index,image,question,A,B\n", "its columns are separated by commas; expected tabs"),
    ("index\timage\tquestion\tA\tB\tB\n", "has the column 'B' twice"),
    ("index\timage\tquestion\tA\tB\n", "holds no samples"),
    ("index\timage\tquestion\tA\tB\n1\tx\tq\ta\n", "line 2: has 4 cells, expected 5"),
    ('index\timage\tquestion\tA\tB\n1\tx\t"q\ta\tb\n2\tx\tq\ta\tb\n', "line 2: a quotation mark is not closed"),
])  # fmt: skip
def test_another_file_is_explained(tmp_path: Path, text: str, message: str):
    """fails when a file with other columns is read, or refused without saying what it has"""
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(DataError) as error:
        opened(tmp_path / "t.tsv")
    assert message in str(error.value)


def test_a_file_that_changes_costs_its_questions_only(tmp_path: Path):
    """fails when a table that was replaced during the evaluation ends it with a traceback"""
    from chatbridge.common.errors import MediaError

    path = write_mmbench(tmp_path / "t.tsv", [question(1), question(2)])
    dataset = opened(path)
    path.write_text("index\timage\tquestion\tA\tB\n")
    with pytest.raises(MediaError, match="has changed since it was opened"):
        dataset.record(1, None)  # pyright: ignore[reportArgumentType]
