"""LLaVA's lists of both stages: names of existing images, skipped records, the YAMLs that read the result."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Text
from chatbridge.datasets.builders.dialogues import Dialogues
from dataset_prep import llava
from tests.helpers.mini_multis import skips
from tests.helpers.stage1_inputs import without_name
from tests.helpers.tiny_media import jpeg, write_json

ROOT = Path(__file__).parents[2]


def record(number: int, *texts: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]
    return {"id": f"r{number}", **fields, "conversations": turns}


def source_of(name: str) -> Dialogues:
    """The source of a shipped YAML, with its paths as they are."""
    node = load(ROOT / f"configs/datasets/{name}.yaml")[0]["data"]["sources"][name]
    return Dialogues(parse(Dialogues.Config, without_name(node)), name)


def parts(source: Dialogues, index: int) -> list[str]:
    """Text and file names of the first turn."""
    first = source.record(index, np.random.default_rng(0)).conversation[0]
    return [part.text if isinstance(part, Text) else Path(str(part.ref)).name for part in first.parts
            if isinstance(part, Text | Media)]  # fmt: skip


def test_stage_1_from_its_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """fails when an image is not unpacked, a name leaves the folder, a damaged one stays, or the YAML cannot read it"""
    monkeypatch.chdir(tmp_path)
    records = [
        record(0, "Describe the image.\n<image>", "a dog .", image="0/a.jpg"),
        record(1, "<image>\nWhat is it?", "a cat .", image="b.jpg"),
        record(2, "<image>\nWhat is it?", "a cow .", image="gone.jpg"),
        record(3, "<image>\nWhat is it?", "a pig .", image="../../out.jpg"),
        record(4, "<image>\nWhat is it?", "an ant .", image="bad.jpg"),
        record(5, "<image> <image>\nWhat is it?", "an elk .", image="b.jpg"),
        record(6, "<image>\nWhat is it?", " ", image="b.jpg"),
        record(7, "Say hello.", "Hello."),
        {"id": "r8", "image": "b.jpg"},
    ]
    chats = write_json(tmp_path / "chat.json", records)
    with zipfile.ZipFile("images.zip", "w") as archive:
        for name in ("images/0/a.jpg", "b.jpg", "../../out.jpg", "images/unused.jpg", "images/bad.jpg"):
            archive.writestr(name, jpeg(len(name)))
        place = archive.getinfo("images/bad.jpg").header_offset + 30 + len("images/bad.jpg")
    content = bytearray(Path("images.zip").read_bytes())
    content[place] ^= 0xFF
    Path("images.zip").write_bytes(content)
    asked = ["llava_cc3m_595k", "--list", str(chats), "--zip", "images.zip"]
    assert llava.main(asked) == 0
    assert "ONLY 0% of the 595,000 in its name" in capsys.readouterr().out
    images = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg"))
    assert images == [f"data/llava/llava_cc3m_595k/images/{name}" for name in ("0/a.jpg", "b.jpg")]
    assert json.loads(Path("data/llava/llava_cc3m_595k.json").read_text()) == [records[0], records[1], records[7]]
    assert skips(tmp_path / "data/llava/llava_cc3m_595k.skipped.jsonl") == {
        "r2": "its image does not exist", "r3": "its image does not exist", "r4": "its image is damaged in the zip",
        "r5": "its markers and images differ in number", "r6": "has no answer", "record 8": "is malformed",
    }  # fmt: skip
    assert not (tmp_path.parent / "out.jpg").exists()
    source = source_of("llava_cc3m_595k")
    assert [parts(source, index) for index in range(3)] == [
        ["Describe the image.", "a.jpg"], ["b.jpg", "What is it?"], ["Say hello."]
    ]  # fmt: skip
    Path("data/llava/llava_cc3m_595k/images/b.jpg").unlink()
    assert llava.main(asked) == 0 and Path("data/llava/llava_cc3m_595k/images/b.jpg").is_file()
    assert "already done" in capsys.readouterr().out


def test_the_mix_of_llava_15_keeps_folders_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a name loses the folder of its set, a text-only chat is left out, or a missing image is not listed"""
    monkeypatch.chdir(tmp_path)
    records = [
        record(0, "<image>\nWhat is it?", "A dog.", image="coco/train2017/000000000009.jpg"),
        record(1, "<image>\nWho wrote it?", "Ann.", "Which year?", "1999.", image="ocr_vqa/images/1.jpg"),
        record(2, "Write a line.", "A line.", model=""),
        record(3, "<image>\nWhere?", "Left.", image="vg/VG_100K/2.jpg"),
    ]
    images = tmp_path / "data/llava/llava_v15_665k/images"
    for name in ("coco/train2017/000000000009.jpg", "vg/VG_100K/2.jpg"):
        (images / name).parent.mkdir(parents=True)
        (images / name).write_bytes(jpeg(5))
    assert llava.main(["llava_v15_665k", "--list", str(write_json(tmp_path / "mix.json", records))]) == 0
    assert skips(tmp_path / "data/llava/llava_v15_665k.skipped.jsonl") == {"r1": "its image does not exist"}
    source = source_of("llava_v15_665k")
    assert [parts(source, index) for index in range(3)] == [
        ["000000000009.jpg", "What is it?"], ["Write a line."], ["2.jpg", "Where?"]
    ]  # fmt: skip


@pytest.mark.parametrize("folder", ["train2014", "train2017"])
def test_stage_2_finds_every_release_of_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str):
    """fails when names of LLaVA do not become those of the files, or turns are lost"""
    monkeypatch.chdir(tmp_path)
    name = {"train2014": "COCO_train2014_000000000009.jpg", "train2017": "000000000009.jpg"}[folder]
    image = tmp_path / "data/multis/coco/images" / folder / name
    image.parent.mkdir(parents=True)
    image.write_bytes(jpeg(1))
    texts = [text for k in range(6) for text in (f"{'<image>' * (k == 0)}\nQuestion {k}?", f"Answer {k}.")]
    records = [record(0, *texts, image="000000000009.jpg"), record(1, *texts, image="000000000010.jpg")]
    chats = write_json(tmp_path / "raw/llava_instruct_150k.json", records)
    for one in ("llava_instruct_150k", "llava_detail_23k"):
        assert llava.main([one, "--list", str(chats)]) == 0
        source = source_of(one)
        assert len(source) == 1 and parts(source, 0) == [name, "Question 0?"]
        assert len(source.record(0, np.random.default_rng(0)).conversation) == 12
    assert json.loads(Path("data/llava/llava_instruct_150k.json").read_text())[0]["image"] == f"{folder}/{name}"


def test_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when missing images, a page instead of a zip, or a list of something else give no next step"""
    monkeypatch.chdir(tmp_path)
    chats = write_json(tmp_path / "chat.json", [record(0, "<image>\nWhat?", "a dog .", image="a.jpg")])
    with pytest.raises(DataError, match=r"there is no folder data/llava/llava_blip_558k/images; give images\.zip"):
        llava.main(["llava_blip_558k", "--list", str(chats)])
    with pytest.raises(DataError, match=r"no folder data/multis/coco/images; prepare COCO's images first"):
        llava.main(["llava_instruct_80k", "--list", str(chats)])
    Path("page.zip").write_text("<html>")
    with pytest.raises(DataError, match=r"page\.zip: is not a zip"):
        llava.main(["llava_cc3m_595k", "--list", str(chats), "--zip", "page.zip"])
    other = write_json(tmp_path / "other.json", [{"image_id": 1, "caption": "A dog."}])
    with pytest.raises(DataError, match="no record can be used\n  skipped 1: is malformed"):
        llava.main(["llava_cc3m_595k", "--list", str(other), "--images", str(tmp_path)])
    with pytest.raises(DataError, match="no record can be used\n  skipped 1: its image does not exist"):
        llava.main(["llava_cc3m_595k", "--list", str(chats), "--images", str(tmp_path)])


def test_the_mixture_of_the_parts_has_every_record_once():
    """fails when the parts have other shares than their sizes, or another part is in the mixture"""
    sources = load(ROOT / "configs/mixtures/llava_instruct_parts.yaml")[0]["data"]["sources"]
    assert {name: source["weight"] for name, source in sources.items()} == dict.fromkeys(
        ("llava_conversation_58k", "llava_detail_23k", "llava_complex_reasoning_77k"), "size"
    )
