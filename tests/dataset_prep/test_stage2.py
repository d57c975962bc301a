"""The scripts for the sources of stage 2, with small copies of the published files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from dataset_prep import audiocap, cococap, msrvtt, multis, verify, vqav2
from dataset_prep.common.manifest import Manifest
from tests.helpers import mini_multis
from tests.helpers.mini_multis import COCO, NO_IMAGE, skips
from tests.helpers.tiny_media import jpeg, write_json

ROOT = Path(__file__).parents[2]
MEDIA_SCRIPTS = ("reencode", "extract_frames", "extract_audio")
SCRIPTS = (*MEDIA_SCRIPTS, "vqav2", "vgqa", "cococap", "msrvtt", "audiocap", "multis", "valor")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds raw/ and data/multis/ after every script has run."""
    folder = tmp_path_factory.mktemp("stage2")
    mini_multis.write_raw(folder / "raw", folder / "data/multis")
    mini_multis.prepare(folder / "raw", folder / "data/multis")
    return folder


def listed(prepared: Path, name: str) -> list[dict]:
    return json.loads((prepared / "data/multis" / name).read_text())


def test_annotations_become_records_of_multis(prepared: Path):
    """fails when a field is lost, an answer is not the most frequent one, or an image name does not exist"""
    nine, twenty_five = (f"train2014/COCO_train2014_{n:012}.jpg" for n in (9, 25))
    assert listed(prepared, "img_vqa_vqav2.json") == [
        {"image_id": nine, "question": "What is on the plate?", "answer": "food"},
        {"image_id": twenty_five, "question": "Is it sunny?", "answer": "yes"},
    ]
    assert [one["image_id"] for one in listed(prepared, "img_vqa_vg.json")] == [
        "VG_100K/1.jpg", "VG_100K/1.jpg", "VG_100K_2/2417997.jpg"
    ]  # fmt: skip
    captions = listed(prepared, "img_cap_coco.json")
    assert [one["image_id"] for one in captions] == [nine, twenty_five]
    assert captions[0]["caption"] == [f"Sentence {k} about picture 9." for k in range(5)]
    assert [(one["video_id"], len(one["caption"])) for one in listed(prepared, "vid_cap_msrvtt.json")] == [
        ("video0", 20), ("video1", 20)  # video2 is of another split, video3 cannot be read
    ]  # fmt: skip
    assert listed(prepared, "vid_qa_msrvtt.json")[2] == {
        "video_id": "video2", "question": "what is person 2 doing?", "answer": "cooking"
    }  # fmt: skip
    assert listed(prepared, "aud_cap_audiocaps.json")[1] == {
        "video_id": "-AheI8Epim4", "caption": ["Multiple clanging and clanking sounds"]
    }  # fmt: skip


def test_chats_keep_their_turns_and_have_existing_ids(prepared: Path):
    """fails when text or markers of a chat change, an id has no file, or a video without audio remains"""
    chat = listed(prepared, "llava_conversation_58k.json")[0]
    assert chat["image_id"] == "train2014/COCO_train2014_000000000009.jpg"
    assert [turn["value"] for turn in chat["conversations"]] == [
        "What is this?\n<image>", "A red bus.", "How many doors?", "Two doors."
    ]  # fmt: skip
    assert [one["video_id"] for one in listed(prepared, "video_detail_10k.json")] == ["video0", "video1"]
    assert [one["video_id"] for one in listed(prepared, "audiovideo_detail_10k.json")] == [
        "0SdAVK79lg_30.000_40.000", "x1"
    ]  # fmt: skip


def test_published_lists_of_questions_and_captions_are_copied(prepared: Path, tmp_path: Path):
    """fails when a downloaded list changes, an invalid record remains, or text becomes a list"""
    for name in ("msrvtt", "audiocaps"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).symlink_to(prepared / "data/multis" / name)
    asked = [
        {"video_id": "video1.mp4", "question": "who?", "answer": "a man"},
        {"video_id": "video0", "question": ["who?", "where?"], "answer": ["a man", "here"]},
        {"video_id": "video0", "question": ["who?", "where?"], "answer": ["a man"]},
        {"question": "who?", "answer": "nobody"},
    ]
    write_json(tmp_path / "raw/vid_qa_msrvtt.json", asked)
    write_json(tmp_path / "raw/aud_cap_audiocaps.json", [{"video_id": "r1nicOVtvkQ", "desc": "Water pours"}])
    multis.main(["--from", str(tmp_path / "raw"), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out/vid_qa_msrvtt.json").read_text()) == [
        {**asked[0], "video_id": "video1"},
        asked[1],
    ]
    assert json.loads((tmp_path / "out/aud_cap_audiocaps.json").read_text()) == [
        {"video_id": "r1nicOVtvkQ", "caption": ["Water pours"]}
    ]
    assert skips(tmp_path / "out/vid_qa_msrvtt.skipped.jsonl") == {
        "record 2": "is malformed", "record 3": "is malformed"
    }  # fmt: skip


def test_skipped_records_have_a_reason(prepared: Path):
    """fails when a skipped record has no line with its reason, or is not counted in the manifest"""
    root = prepared / "data/multis"
    assert skips(root / "img_cap_coco.skipped.jsonl") == {
        "30": "has no caption",
        str(NO_IMAGE): "its file does not exist",
    }
    assert skips(root / "msrvtt/frames_fps4/skipped.jsonl") == {"video3": "cannot be read"}
    assert skips(root / "audiocaps/audio_22050hz/skipped.jsonl") == {
        "broken_file.wav": "cannot be read", "GONE0000000": "its file does not exist"
    }  # fmt: skip
    assert skips(root / "audioset/audio_22050hz_recons/skipped.jsonl") == {"silent.wav": "has no audio track"}
    manifest = json.loads((root / "video_detail_10k.manifest.json").read_text())
    assert (manifest["samples"], list(manifest["skipped"].values())) == (2, [2])
    assert len(manifest["files"][0]["sha256"]) == 64
    for folder in ("msrvtt/frames_fps4", "audiocaps/audio_22050hz", "audioset/frames_recons"):
        made = Manifest.read(root / folder)
        assert made is not None and made.faults(root / folder) == []


def test_media_have_the_published_format(prepared: Path):
    """fails when frames are not four per second, or audio is not mono of 22,050 Hz with its original length"""
    import soundfile

    root = prepared / "data/multis"
    frames = sorted(path.name for path in (root / "msrvtt/frames_fps4/video0").iterdir())
    assert frames == [f"img_{k:04d}.jpg" for k in range(1, 6)]
    lengths = {"r1nicOVtvkQ": 1.0, "-AheI8Epim4": 1.0, "whole_video": 10.0}
    for name, seconds in lengths.items():
        audio = soundfile.info(root / f"audiocaps/audio_22050hz/{name}.wav")
        assert (audio.samplerate, audio.channels) == (22050, 1)
        assert audio.duration == pytest.approx(seconds, abs=0.02)


def test_lists_and_folders_are_verified(prepared: Path, tmp_path: Path, capsys):
    """fails when a manifest of a list, or of a folder of frames, is not found or not compared"""
    root = prepared / "data/multis"
    assert verify.main([str(root), str(root / "msrvtt/frames_fps4")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 15
    shutil.copytree(root / "audioset/frames_recons", tmp_path / "frames")
    (tmp_path / "frames/x1/img_0002.jpg").write_bytes(jpeg())
    assert verify.main([str(tmp_path / "frames")]) == 1
    assert "x1: has" in capsys.readouterr().out


def test_a_second_run_only_repeats_missing_files(prepared: Path, capsys):
    """fails when finished files are repeated, or a lost or changed file is not"""
    root = prepared / "data/multis"
    kept, lost = root / "msrvtt/frames_fps4/video0/img_0001.jpg", root / "msrvtt/frames_fps4/video1/img_0003.jpg"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (root / "img_vqa_vg.json").write_text("[]")
    mini_multis.prepare(prepared / "raw", root)
    printed = capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before and lost.exists()
    assert len(listed(prepared, "img_vqa_vg.json")) == 3
    assert "img_vqa_vqav2.json: already done" in printed and "img_vqa_vg.json: 3 records" in printed


def test_splits_of_karpathy(prepared: Path, tmp_path: Path):
    """fails when test images are in the training data, or restval is not"""
    command = ["--annotations", str(prepared / "raw/coco/dataset_coco.json"), "--split", "train", "restval"]
    images = ["--images", str(prepared / "data/multis/coco/images"), "--out", str(tmp_path)]
    cococap.main([*command, *images])
    records = json.loads((tmp_path / "img_cap_coco.json").read_text())
    assert [one["caption"] for one in records] == [["Picture 9."], ["Picture 25."]]


@pytest.mark.parametrize(
    "main, files, command, message",
    [
        (multis.main, {}, ["--from", "."], "none of the lists is below ."),
        (multis.main, {"raw/detail_23k.json": []}, ["--from", "raw"], "contains no image with a number"),
        (msrvtt.main, {}, [], "nothing to do: use --videos, --info or --qa"),
        (msrvtt.main, {"qa.json": []}, ["--qa", "qa.json"], "contains no frames; use --videos"),
        (audiocap.main, {"a.csv": "x"}, ["--csv", "a.csv"], "has no column audiocap_id and youtube_id"),
        (
            vqav2.main,
            {"q.json": {"questions": []}, "a.json": {"annotatoins": [1]}, "data/multis/coco/images/9.jpg": "x"},
            ["--questions", "q.json", "--annotations", "a.json"],
            "a.json: expected 'annotations'",
        ),
    ],
)
def test_mistakes_have_messages(tmp_path: Path, monkeypatch, main, files: dict, command: list[str], message: str):
    """fails when a wrong file or a missing step gives a traceback"""
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        write_json(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        main(command)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_help(script: str, capsys):
    """fails when --help of a script fails, or does not show its command"""
    module = __import__(f"dataset_prep.{script}", fromlist=["main"])
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert f"python -m dataset_prep.{script}" in capsys.readouterr().out


def test_scripts_start_without_torch():
    """fails when --help takes seconds, or every process needs gigabytes of memory"""
    modules = ", ".join(f"dataset_prep.{script}" for script in SCRIPTS)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_chat_lists_are_counted(prepared: Path, capsys):
    """fails when an incomplete download counts as the complete list"""
    multis.main(["--out", str(prepared / "data/multis"), "--from", str(prepared / "raw/llava")])
    printed = capsys.readouterr().out
    assert "ONLY 0% of the 77,000 in its name" in printed
    assert "video_detail_10k.json: is not below" in printed
    assert len(COCO) == len(listed(prepared, "llava_detail_23k.json"))
