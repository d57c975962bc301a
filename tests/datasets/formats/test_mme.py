"""The folder of MME: what is wrong with it is named before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.mme import MME
from chatbridge.datasets.formats.mme import SUBJECTS
from tests.helpers.choice_sets import APART, write_mme


def opened(folder: Path, **settings: Any) -> MME:
    return MME(parse(MME.Config, {"folder": str(folder), **settings}), "mme")


def test_both_placements_are_read(tmp_path: Path):
    """fails when images beside the text files, in images/ or in images/toy_dataset/ are not found"""
    dataset = opened(write_mme(tmp_path))
    records = [dataset.record(index, None) for index in range(len(dataset))]  # pyright: ignore[reportArgumentType]
    assert len(records) == 4 * len(SUBJECTS) and dataset.note() is None
    paths = [Path(str(record.conversation[0].media[0].ref)) for record in records]
    assert all(path.is_file() for path in paths)
    inner = {path.parent.relative_to(tmp_path).as_posix() for path in paths}
    assert {"artwork/images/toy_dataset", "posters/images", "count"} <= inner and set(APART) <= set(SUBJECTS)
    assert [record.references for record in records[:4]] == [("yes",), ("no",)] * 2
    assert records[2].id == "existence/0001/1" and dataset.shared_id(2) == dataset.shared_id(3) != dataset.shared_id(1)


def rewrite(text: str | bytes) -> Callable[[Path], object]:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "color/0001.txt").write_bytes(content)


LINES = "Is it red?\tYes\nIs it blue?\tNo\n"


@pytest.mark.parametrize(("change", "message"), [
    (rewrite("Is it red?\tYes\n"), "color/0001.txt: has 1 question, expected 2"),
    (rewrite(LINES + "And?\tNo\n"), "has 3 questions, expected 2"),
    (rewrite("Is it red? Yes\nIs it blue? No\n"), "line 1 has 1 columns, expected question<TAB>answer"),
    (rewrite("Is it red?\tYes\tsure\nIs it blue?\tNo\n"), "line 1 has 3 columns"),
    (rewrite("Is it red?\tYes\nIs it blue?\tblue\n"), "line 2 has the answer 'blue', expected Yes or No"),
    (rewrite("Is it red?\tYes\nIs it red?\tNo\n"), "asks the same question twice"),
    (rewrite(b"Is it r\xff?\tYes\nIs it blue?\tNo\n"), "is not UTF-8 text"),
])  # fmt: skip
def test_a_faulty_text_file_is_named(tmp_path: Path, change: Callable[[Path], object], message: str):
    """fails when a question that the official tool could not score is asked"""
    folder = write_mme(tmp_path, ("color", "OCR"))
    change(folder)
    with pytest.raises(DataError) as error:
        opened(folder, subjects=["color", "OCR"])
    assert message in str(error.value) and "1 record cannot be used" in str(error.value)


def test_blank_lines_and_a_byte_order_mark_are_no_fault(tmp_path: Path):
    """fails when a text file that an editor saved is refused"""
    folder = write_mme(tmp_path, ("color",))
    rewrite("\ufeff" + LINES.replace("\n", "\r\n") + "\r\n")(folder)
    record = opened(folder, subjects=["color"]).record(2, None)  # pyright: ignore[reportArgumentType]
    assert record.conversation[0].text.strip() == "Is it red?" and record.references == ("yes",)


def test_a_wrong_folder_is_explained(tmp_path: Path):
    """fails when the folder above the release, one without questions, or one with some subjects is not explained"""
    write_mme(tmp_path / "MME_Benchmark", ("color", "count"))
    with pytest.raises(DataError, match=r"the subjects are in .*MME_Benchmark; name that folder"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"has no folder existence/, position/.*subjects: \[count, color\]"):
        opened(tmp_path / "MME_Benchmark")
    (tmp_path / "bare/color").mkdir(parents=True)
    with pytest.raises(DataError, match="has no questions; expected <image>.txt"):
        opened(tmp_path / "bare", subjects=["color"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no folder of a subject of MME; name the folder that has existence/"):
        opened(tmp_path / "empty")
