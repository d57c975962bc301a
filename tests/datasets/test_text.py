"""Invalid text: halves of an emoji, zero characters, bytes of other encodings, in every reader of text."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin
from torch import Tensor, zeros

from chatbridge.common.errors import MediaError
from chatbridge.common.types import Failure
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.builders._prompts import read_prompts
from chatbridge.datasets.decoding import decode
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.loader import build_loader
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import VideoProcessor
from chatbridge.tasks.evaluator import write_metrics, write_predictions
from dataset_prep.link_lists import SETS, read_links
from tests.helpers.media_files import write_video
from tests.helpers.tiny_media import jpeg, layout, pairs, write_tar
from tests.processors.test_media_file_safety import EPS, PLAYLISTS

HALF = "nice square \\ud83d"  # as it is written in JSON
REPAIRED = "nice square \ufffd"


def opened(name: str, **config: Any) -> Dataset:
    part = BUILDERS.get(name)
    return part(parse(part.Config, config), "mine")


def texts(source: Dataset, index: int = 0) -> list[str]:
    return [message.text for message in source.record(index, np.random.default_rng(0)).conversation]


def image(ref: Any, rng: Any = None) -> Tensor:
    return zeros(3, 4, 4)


def test_half_an_emoji_in_a_tar_is_repaired_and_counted(tmp_path: Path):
    """fails when one caption of a tar ends the training, or is changed without a count"""
    tar = write_tar(
        tmp_path / "t.tar",
        [*pairs(3), ("x.jpg", jpeg()), ("x.json", f'{{"caption": "{HALF}"}}'), ("y.jpg", jpeg()), ("y.txt", "a\0b")],
    )
    source = opened("web_pairs", shards=str(tar), modality="image", clean=False)
    assert texts(source, 3)[1] == REPAIRED and texts(source, 4)[1] == "a\ufffdb"
    mixture = Mixture({"mine": source}, {"mine": 1}, 0, 5)
    failure_log = FailureLog(tmp_path / "failures.jsonl", {"mine": 0})
    list(
        build_loader(
            mixture,
            layout(),
            {"image": image},
            micro_batch=5,
            stop_step=2,
            num_workers=0,
            seed=1,
            failure_log=failure_log,
        )
    )
    assert failure_log.counted["repaired"] == {"mine": 4} and not failure_log.failed
    assert "U+FFFD" in (tmp_path / "failures.jsonl").read_text()


@pytest.mark.parametrize(
    ("ending", "content", "reason"),
    [
        ("txt", "Größe".encode("latin-1"), "not UTF-8 text"),
        ("txt", "a red square".encode("utf-16"), "UTF-16"),
        ("txt", "a red square".encode("utf-16-le"), "UTF-16"),
        ("json", '{"caption": "a"}'.encode("utf-16"), "UTF-16"),
        ("json", b'{"caption": ' + b"[" * 100_000, "not a JSON object"),
    ],
)
def test_other_encodings_are_a_failure_of_the_sample(tmp_path: Path, ending: str, content: bytes, reason: str):
    """fails when bytes of another encoding end a run, or are trained on as text with gaps"""
    tar = write_tar(tmp_path / "e.tar", [*pairs(1), ("x.jpg", jpeg()), (f"x.{ending}", content)])
    source = opened("web_pairs", shards=str(tar), modality="image")
    with pytest.raises(MediaError, match=reason):
        source.record(1, np.random.default_rng(0))


def test_records_and_annotations_are_repaired_and_counted(tmp_path: Path):
    """fails when half an emoji in an id, a detail or text of an annotation reaches a run, or is not reported"""
    line = (
        f'{{"id": "a\\ud83d", "messages": [{{"role": "user", "content": "hi {HALF}"}}, {{"role": "assistant", '
        f'"content": "{HALF}"}}], "details": {{"k": "\\ude00\\u0000"}}}}\n'
    )
    (tmp_path / "r.jsonl").write_text(line * 2)
    source = opened("records", file=str(tmp_path / "r.jsonl"))
    assert texts(source) == [f"hi {REPAIRED}", REPAIRED]
    assert [source.sample_id(n) for n in (0, 1)] == ["a\ufffd", "a\ufffd#2"]
    assert source.record(0, np.random.default_rng(0)).details == {"k": "\ufffd\ufffd"}
    assert "2 records held half an emoji" in str(source.note()) and "line 1" in str(source.note())
    (tmp_path / "v.json").write_text(f'[{{"image_id": 7, "question": "what\\ud83d\\ude00?", "answer": "{HALF}"}}]')
    asked = opened("questions", annotations=str(tmp_path / "v.json"), tag="ti-qa", image_folder=str(tmp_path))
    (tmp_path / "7.jpg").write_bytes(jpeg())
    assert texts(asked) == ["what\U0001f600?", REPAIRED]
    assert "1 record held" in str(asked.note())


def test_text_and_numbers_of_one_record_are_repaired(tmp_path: Path):
    """fails when NaN in a record keeps its half emoji from being repaired, or reaches the results"""
    (tmp_path / "c.json").write_text(f'[{{"image_id": "7", "caption": "{HALF}", "score": NaN}}]')
    (tmp_path / "7.jpg").write_bytes(jpeg())
    source = opened("captions", annotations=str(tmp_path / "c.json"), tag="ti", image_folder=str(tmp_path))
    assert texts(source)[1] == REPAIRED and "1 record held" in str(source.note())
    assert source.record(0, np.random.default_rng(0)).details == {"image_id": "7", "score": None}


def test_names_of_files_in_other_bytes(tmp_path: Path):
    """fails when a tar, its members or a record's path whose name is not UTF-8 ends a run, or is dropped"""
    with tarfile.open(tmp_path / "x.tar", "w", errors="surrogateescape") as tar:
        for name, content in (("k\udce9.jpg", jpeg()), ("k\udce9.txt", b"words"), ("l.jpg", jpeg()), ("l.txt", b"w")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    odd = tmp_path / "p\udce9.tar"
    try:
        (tmp_path / "x.tar").rename(odd)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    source = opened("web_pairs", shards=str(odd), modality="image", cache_folder=str(tmp_path / "cache"))
    assert [texts(source, n)[-1] for n in range(len(source))] == ["words", "w"]
    record = {"messages": [{"role": "user", "content": [{"type": "image", "path": "x\ud83d.jpg"}]},
                           {"role": "assistant", "content": "b"}]}  # fmt: skip
    (tmp_path / "r.jsonl").write_text(json.dumps(record))
    (media,) = (
        opened("records", file=str(tmp_path / "r.jsonl")).record(0, np.random.default_rng(0)).conversation[0].parts
    )
    with pytest.raises(MediaError, match="x\ufffd.jpg: no such file"):
        ImageProcessor(8)(media.ref)


def test_programs_and_playlists_inside_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a member of a tar runs a program or names other files, which a plain file may not do"""
    ran: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **more: ran.append(given))
    monkeypatch.chdir(tmp_path)
    write_video(Path("secret.mp4"), 4, tone_hz=440.0)
    processors: dict[str, Any] = {"image": ImageProcessor(8), "audio": AudioProcessor(target_frames=16)}
    processors["video"] = VideoProcessor(ImageProcessor(8), 2)
    lists = [text.format(name="secret.mp4").encode() for text in PLAYLISTS.values()]
    for modality, ending, contents in (("image", "jpg", [EPS]), ("video", "mp4", lists), ("audio", "wav", lists)):
        members = [
            (f"{n}.{end}", one) for n, content in enumerate(contents) for end, one in ((ending, content), ("txt", b"w"))
        ]
        source = opened("web_pairs", shards=str(write_tar(tmp_path / f"{modality}.tar", members)), modality=modality)
        assert len(source) == len(contents)
        for index in range(len(source)):
            conversation = source.record(index, np.random.default_rng(0)).conversation
            with pytest.raises(MediaError, match="names other|not the file itself|never run"):
                decode(conversation, processors)
    assert not ran


def test_valid_records_have_no_note(tmp_path: Path):
    """fails when a whole emoji, or a backslash before u0000, counts as a repair"""
    record = {"messages": [{"role": "assistant", "content": "\U0001f600 \\u0000"}]}
    (tmp_path / "r.jsonl").write_text(json.dumps(record))
    source = opened("records", file=str(tmp_path / "r.jsonl"))
    assert source.note() is None and texts(source) == ["\U0001f600 \\u0000"]


def test_link_lists_and_prompts_are_repaired(tmp_path: Path):
    """fails when a list of links cannot be written because one caption ends in half an emoji"""
    link = f'{{"url": "http://a/b.jpg", "caption": "{HALF}"}}'
    (tmp_path / "l.json").write_text(f"[{link}]")
    (tmp_path / "l.jsonl").write_text(link)
    for name in ("l.json", "l.jsonl"):
        assert [one.caption for one in read_links(tmp_path / name, SETS["sbu"])] == [REPAIRED]
    (tmp_path / "p.json").write_text('{"ti-cap": ["Describe \\ud83d it."]}')
    assert read_prompts(tmp_path / "p.json") == {"ti-cap": ("Describe \ufffd it.",)}


def test_results_are_written_as_valid_text(tmp_path: Path):
    """fails when an answer, a file name of other bytes or a metric's group cannot be written"""
    write_predictions(tmp_path / "p.jsonl", [{"id": "x\udce9", "answer": "\ud83d"}])
    assert json.loads((tmp_path / "p.jsonl").read_text()) == {"id": "x\ufffd", "answer": "\ufffd"}
    write_metrics(tmp_path / "m.json", {"by": {"\ud83d": 1}})
    failure_log = FailureLog(tmp_path / "failures.jsonl", {"a": 1})
    failure_log.add([Failure("a", "x\udce9.jpg", "no such file")])
    assert failure_log.failed == {"a": 1}
