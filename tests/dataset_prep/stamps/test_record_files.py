"""The files that are written: read by the project, made of altered copies only, the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from chatbridge.common.seeds import stream
from chatbridge.conversation.messages import Media
from chatbridge.datasets.builders.records import Records
from dataset_prep.stamps import pictures, svg
from dataset_prep.stamps.material import collect
from dataset_prep.stamps.records import Record, image
from dataset_prep.stamps.write_files import write_all
from tests.helpers.mini_stamps import HEARD, write_stamp


def test_the_project_reads_every_file(written: tuple[Path, Record]) -> None:
    out, found = written
    for name, count in found["conversations"].items():
        if not count:
            continue
        data = Records(Records.Config(file=out / name), name)
        assert len(data) == count > 0
        conversation = data.record(0, stream(0, "x")).conversation
        assert any(isinstance(part, Media) for message in conversation for part in message.parts)


def test_nothing_of_the_package_is_copied_unaltered(written: tuple[Path, Record], package: Path) -> None:
    content = {path.read_bytes() for path in package.rglob("*") if path.is_file()}
    assert not any(path.read_bytes() in content for path in written[0].rglob("*") if path.is_file())


def test_a_second_run_changes_nothing(written: tuple[Path, Record], package: Path, samples: Path) -> None:
    before = {path: path.read_bytes() for path in written[0].rglob("*") if path.is_file()}
    write_all(package, samples, written[0])
    assert {path: path.read_bytes() for path in written[0].rglob("*") if path.is_file()} == before


def test_missing_packages(written: tuple[Path, Record], package: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: has no stamps .*tuxpaint-stamps-default.*stamps\.fetch"):
        write_all(tmp_path / "nowhere", None, tmp_path / "out")
    nothing = tmp_path / "nothing"
    found = collect(package, nothing, written[0])
    assert found.notes == [f"{nothing}: there are no samples; install the Debian package sonic-pi-samples"]
    assert {one.name for one in found.heard} == {f"a {name}" for name in HEARD}


@pytest.mark.parametrize(("ending", "what"), [("png", "a picture"), ("ogg", "a sound")])
def test_damaged_files_are_named(tmp_path: Path, ending: str, what: str) -> None:
    write_stamp(tmp_path / "stamps", "animals/mammals/cow", "A cow.", sound=1)
    damaged = tmp_path / "stamps" / "animals" / "mammals" / f"cow.{ending}"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"cow\.{ending}: cannot be read as {what} .*install its package again"):
        collect(tmp_path / "stamps", None, tmp_path / "out")


def test_drawings_need_a_renderer(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = tmp_path / "stamps" / "animals" / "ant.svg"
    drawing.parent.mkdir(parents=True)
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="1cm" height="1cm"/>', encoding="utf-8")
    drawing.with_suffix(".txt").write_text("An ant.\n", encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    assert svg.render(drawing.parents[1], tmp_path / "copies") == (
        0,
        "1 drawings that exist as SVG only are left out; `pip install resvg-py` renders them",
    )


def test_a_stamp_is_used_where_it_is(package: Path) -> None:
    stamp = next(one for one in pictures.read_stamps(package) if one.name == "cow")
    assert image(stamp.path)["path"] == str((package / "animals/mammals/cow.png").absolute())
