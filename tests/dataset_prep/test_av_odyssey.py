"""AV-Odyssey's parquet files: media and questions are written in the form that the builder reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from dataset_prep.av_odyssey import main
from tests.helpers.mini_audio_visual import AV_ODYSSEY, av_odyssey_node, opened_choices
from tests.helpers.tiny_media import jpeg, mp4, wav

pyarrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")


def test_a_table_is_written_out(tmp_path: Path):
    """fails when a file of a question is lost or gets a wrong ending, or the written questions cannot be read"""
    from pyarrow import parquet

    content = {"image": jpeg(), "audio": wav(), "video": mp4()}
    rows = [
        {key: value and content[kind] if (kind := key.partition("_")[0]) in content else value
         for key, value in row.items()} for row in AV_ODYSSEY
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "part1.parquet")
    assert main(["--parquet", str(tmp_path / "part1.parquet"), "--out", str(tmp_path / "out")]) == 0
    written = sorted(path.name for path in (tmp_path / "out/media").iterdir())
    assert written == ["14_3_audio_1.wav", "14_3_video_1.mp4", "1_0_audio_1.wav",
                       *(f"1_0_image_{number}.jpg" for number in (1, 2, 3, 4))]  # fmt: skip
    media = str(tmp_path / "out/media")
    folders = {f"{kind}_folder": media for kind in ("image", "video", "audio")}
    node = av_odyssey_node(tmp_path, annotations=str(tmp_path / "out/av_odyssey.jsonl"), **folders)
    first, second = opened_choices(node)
    assert [Path(item.ref).read_bytes() for item in second.conversation[0].media] == [wav(), mp4()]
    assert len(first.conversation[0].media) == 5 and first.references == ("B",)


def test_another_table_is_refused(tmp_path: Path):
    """fails when a table of another set is written out, or a file that is no parquet ends in pyarrow's error"""
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{"id": 1, "image": b""}]), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="has no column question_id, question, options, answer; its columns: id, image"):
        main(["--parquet", str(tmp_path / "other.parquet"), "--out", str(tmp_path / "out")])
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(DataError, match="is not a readable parquet file"):
        main(["--parquet", str(tmp_path / "text.parquet"), "--out", str(tmp_path / "out")])
