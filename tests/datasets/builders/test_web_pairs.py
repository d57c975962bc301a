"""Tars of pairs, addressed by index."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Text, assistant, user
from chatbridge.datasets.builders import BUILDERS
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.datasets.tars.index import WHOLE, scan
from tests.helpers.tiny_media import jpeg, mp4, pairs, wav, write_json, write_tar


def rng(*counters: int) -> np.random.Generator:
    return seeds.stream(0, "test", *counters)


def opened(shards: str | list[str], modality: str = "image", **options: object) -> WebPairs:
    config = parse(WebPairs.Config, {"shards": shards, "modality": modality, **options})
    return WebPairs(config, "pairs")


def test_samples_come_by_index_across_shards(tmp_path: Path):
    """fails when an index reads the wrong shard, media and text are of two samples, or the text is not cleaned"""
    write_tar(tmp_path / "a-0.tar", pairs(3))
    write_tar(tmp_path / "a-1.tar", pairs(2, first=3))
    source = opened(str(tmp_path / "a-{0..1}.tar"))
    assert len(source) == 5 and source.modalities == {"image"}
    for index in (4, 0, 3, 2):
        record = source.record(index, rng())
        expected = (user(Media("image", jpeg(index))), assistant(f"picture number {index}"))
        assert record.conversation == expected
        assert record.id == source.sample_id(index) == f"a-{index // 3}.tar/{index:05}"
    with pytest.raises(IndexError):
        source.record(5, rng())


def test_every_modality_finds_its_member(tmp_path: Path):
    """fails when an ending is unknown, in capitals, or of another modality"""
    tar = write_tar(
        tmp_path / "m.tar",
        [
            ("v.mp4", mp4()),
            ("v.txt", "a clip"),
            ("s.WAV", wav()),
            ("s.txt", "a sound"),
            ("p.webp", b"x"),
            ("p.txt", "p"),
        ],
    )
    for modality, key in (("video", "v"), ("audio", "s"), ("image", "p")):
        source = opened(str(tar), modality)
        found = [index for index in range(len(source)) if source.sample_id(index) == f"m.tar/{key}"]
        assert source.record(found[0], rng()).conversation[0].media[0].modality == modality
        with pytest.raises(MediaError, match=f"the tar has no {modality}"):
            source.record((found[0] + 1) % 3, rng())


def test_text_from_txt_then_json_and_one_of_a_list(tmp_path: Path):
    """fails when the json of img2dataset wins over the txt, a list is joined, or the draw ignores the generator"""
    tar = write_tar(
        tmp_path / "t.tar",
        [
            ("0.jpg", jpeg()), ("0.txt", "from txt"), ("0.json", json.dumps({"caption": "from json"})),
            ("1.jpg", jpeg()), ("1.json", json.dumps({"caption": ["one", "two", "three"], "url": "x"})),
            ("2.jpg", jpeg()), ("2.json", json.dumps({"title": "Other FIELD"})),
        ],
    )  # fmt: skip
    source = opened(str(tar))
    assert source.record(0, rng()).conversation[1] == assistant("from txt")
    assert opened(str(tar), text="json").record(0, rng()).conversation[1] == assistant("from json")
    drawn = {source.record(1, rng(k)).conversation[1].text for k in range(30)}
    assert drawn == {"one", "two", "three"}
    assert source.record(1, rng(7)) == source.record(1, rng(7))
    assert source.record(1, rng()).references == ("one", "two", "three")
    with pytest.raises(MediaError, match="no text in 'caption'"):
        source.record(2, rng())
    raw = opened(str(tar), text="json", caption_field="title", clean=False)
    assert raw.record(2, rng()).conversation[1] == assistant("Other FIELD")


@pytest.mark.parametrize(
    "members, message",
    [
        ([("0.jpg", jpeg())], "no text of 0"),
        ([("0.txt", "words")], "no image of 0"),
        ([("0.jpg", jpeg()), ("0.txt", b"\xff\xfe\xfa")], "its txt is not UTF-8 text"),
        ([("0.jpg", jpeg()), ("0.json", "[1, 2")], "its json is not a JSON object"),
        ([("0.jpg", jpeg()), ("0.json", "[1, 2]")], "its json is not a JSON object"),
        ([("0.jpg", jpeg()), ("0.json", '{"caption": 5}')], "no text in 'caption'"),
        ([("0.jpg", jpeg()), ("0.txt", " \n")], "the caption of 0 is empty"),
    ],
)
def test_an_incomplete_sample_is_a_failure_of_that_sample(tmp_path: Path, members, message):
    """fails when a missing or unreadable member stops the run, or becomes an empty text"""
    source = opened(str(write_tar(tmp_path / "x.tar", [*members, *pairs(1, first=7)])))
    with pytest.raises(MediaError, match=message):
        source.record(0, rng())
    assert source.sample_id(0) == "x.tar/0"
    assert source.record(1, rng()).conversation[1] == assistant("picture number 7")


def test_grouping_follows_the_webdataset_layout(tmp_path: Path):
    """fails when folders, double endings, hidden files or other members disturb the samples"""
    tar = write_tar(
        tmp_path / "g.tar",
        [
            ("./part/1.jpg", jpeg(1)), ("./part/1.seg.png", b"mask"), ("./part/1.cls", "3"), ("./part/1.txt", "one"),
            ("part2/1.jpg", jpeg(2)), ("__MACOSX/._1.jpg", b"junk"), ("part2/1.txt", "two"),
            ("long/" + "n" * 150 + ".jpg", jpeg(3)), ("long/" + "n" * 150 + ".txt", "three"),
        ],
    )  # fmt: skip
    source = opened(str(tar))
    assert [source.record(i, rng()).conversation[1].text for i in range(len(source))] == ["one", "two", "three"]
    assert source.sample_id(0) == "g.tar/part/1"
    assert source.sample_id(2).endswith("/" + "n" * 150)


def test_a_tar_that_breaks_off_keeps_what_is_whole(tmp_path: Path, caplog):
    """fails when a truncated download stops the run, is silently short, or yields half an image as a whole one"""
    tar = write_tar(tmp_path / "b.tar", [*pairs(3), ("00003.txt", "late"), ("00003.jpg", jpeg(side=64) + b"\0" * 3000)])
    whole = tar.read_bytes()
    rows, damage, _ = scan(tar)
    assert len(rows) == 4 and damage == WHOLE
    tar.write_bytes(whole[: int(rows[3]["at"][0]) + 100])
    source = opened(str(tar))
    assert "is damaged at byte" in caplog.text
    assert [source.record(i, rng()).conversation[1].text for i in range(3)] == [f"picture number {i}" for i in range(3)]
    assert len(source) == 4
    with pytest.raises(MediaError, match="breaks off inside the image of 00003"):
        source.record(3, rng())


def test_a_broken_header_in_the_middle_is_noticed(tmp_path: Path, caplog):
    """fails when a broken header, which tarfile ignores, silently drops half a shard"""
    tar = write_tar(tmp_path / "h.tar", pairs(6))
    rows, *_ = scan(tar)
    content = bytearray(tar.read_bytes())
    header = int(rows[3]["at"][0]) - 512
    content[header : header + 512] = b"\x07" * 512
    tar.write_bytes(content)
    assert len(opened(str(tar))) == 3
    assert "3 samples before it are used" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no tar at all " * 100, b"\x1f\x8b\x08\0" + b"z" * 600])
def test_a_file_that_is_not_a_tar_is_refused(tmp_path: Path, content: bytes):
    """fails when a file that is not a tar is accepted as an empty one"""
    (tmp_path / "n.tar").write_bytes(content)
    with pytest.raises(DataError, match="not an uncompressed tar"):
        opened(str(tmp_path / "n.tar"))


def test_an_empty_source_is_refused(tmp_path: Path):
    """fails when training starts on no samples"""
    with pytest.raises(DataError, match="holds no samples"):
        opened(str(write_tar(tmp_path / "e.tar", [("readme.md", "nothing")])))


def test_missing_shards_are_problems_before_anything_is_opened(tmp_path: Path):
    """fails when a missing shard is found only when it is read, or a pattern without files is silently ignored"""
    write_tar(tmp_path / "set-00.tar", pairs(1))
    with pytest.raises(ConfigError) as caught:
        parse(
            WebPairs.Config,
            {"shards": [f"{tmp_path}/set-{{00..02}}.tar", f"{tmp_path}/other*.tar"], "modality": "image"},
        )
    text = " ".join(str(caught.value).split())  # messages are wrapped to the page
    assert "set-01.tar does not exist (and 1 more of this pattern)" in text and "other*.tar" in text
    assert all(one.is_absent for one in caught.value.problems)  # so the comment beside it in the YAML is shown
    for bad, message in (
        ("https://host/*.tar", "cannot be listed"),
        (["https://host/a.tar", str(tmp_path / "set-00.tar")], "mixes local and remote shards"),
        (f"{tmp_path}/nofolder/a.tar", "the folder"),
        (f"{tmp_path}/set_00.tar", "did you mean"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(WebPairs.Config, {"shards": bad, "modality": "image"})
        assert message in " ".join(str(caught.value).split())


def test_limit_and_pickling(tmp_path: Path):
    """fails when limit is ignored, or an opened source cannot be sent to a spawned worker"""
    source = opened(str(write_tar(tmp_path / "l.tar", pairs(5))), limit=2)
    source.record(0, rng())
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 2 and again.record(1, rng()) == source.record(1, rng())


def test_an_open_source_is_small(tmp_path: Path):
    """fails when memory grows with the number of samples"""
    source = opened(str(write_tar(tmp_path / "s.tar", [(f"{i:06}.txt", "x") for i in range(3000)])))
    assert len(source) == 3000
    assert len(pickle.dumps(source)) < 2000


def test_it_is_registered():
    """fails when the builder is not registered under its name"""
    assert BUILDERS.get("web_pairs") is WebPairs
    assert set(BUILDERS.names()) >= {"captions", "dialogues", "questions", "records", "web_pairs"}


def test_a_request_is_asked_with_the_media(tmp_path: Path):
    """fails when the media are not at their marker, a request is never drawn, or the outline draws another one"""
    write_tar(tmp_path / "a.tar", pairs(2))
    write_json(tmp_path / "asked.json", {"ti-cap": ["<image> Look.", "Describe <image> in words.", "What is it?"]})
    source = opened(str(tmp_path / "a.tar"), prompts=str(tmp_path / "asked.json"), clean=False)
    image = Media("image", jpeg(1))
    turns = {
        user(image, " Look."),
        user(Text("Describe "), image, Text(" in words.")),
        user(image, "What is it?"),
    }
    records = [source.record(1, rng(number)) for number in range(30)]
    assert {record.conversation[0] for record in records} == turns
    assert {record.conversation[1] for record in records} == {assistant("Picture number 1")}
    for number in range(5):
        outline = source.outline(1, rng(number))
        assert [message.text for message in outline] == [one.text for one in source.record(1, rng(number)).conversation]


def test_requests_that_cannot_be_used(tmp_path: Path):
    """fails when a request with two markers, or a file without the tag, is found only when a sample is read"""
    asked = write_json(tmp_path / "asked.json", {"ti-cap": ["<image> and <image>"], "tv-cap": ["Say it."]})
    write_tar(tmp_path / "a.tar", pairs(1))
    for modality, message in (("image", "has 2 <image>, expected one"), ("audio", "no prompts for the tag 'ta-cap'")):
        with pytest.raises(ConfigError, match=message):
            opened(str(tmp_path / "a.tar"), modality, prompts=str(asked))
    with pytest.raises(ConfigError, match="no tag names depth alone"):
        opened(str(tmp_path / "a.tar"), "depth", prompts=str(asked))
