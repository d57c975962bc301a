"""The scripts for the sources of stage 2, with small copies of the published files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from dataset_prep import audiocap, cococap, extract_audio, extract_frames, msrvtt, multis, valor, verify, vqav2
from dataset_prep.common.manifest import Manifest
from dataset_prep.image_index import ImageIndex
from tests.helpers import mini_multis
from tests.helpers.media_files import tone, write_audio
from tests.helpers.mini_multis import COCO, NO_IMAGE, TENTHS, WORKERS
from tests.helpers.odd_videos import rotated_copy, write_timed_video
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


def skips(path: Path) -> dict[str, str]:
    """id -> reason"""
    return {entry["id"]: entry["reason"] for entry in map(json.loads, path.read_text().splitlines())}


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


def test_images_are_found_by_their_number(tmp_path: Path):
    """fails when a different release of the same images is not found"""
    for name in ("train2017/000000000009.jpg", "val2014/COCO_val2014_000000000025.jpg", "25.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg())
    index = ImageIndex(tmp_path, prefer=("train2014", "val2014"))
    assert index.find("COCO_train2014_000000000009.jpg") == index.find(9) == "train2017/000000000009.jpg"
    assert index.find("25") == "val2014/COCO_val2014_000000000025.jpg"
    assert index.find("cat.jpg") is None and index.find(10) is None
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="contains no image with a number"):
        ImageIndex(tmp_path / "none")


def test_frames_are_the_displayed_ones(tmp_path: Path):
    """fails when frames are selected by count instead of time, or a rotated video is not rotated"""
    import numpy as np
    from PIL import Image

    uneven = write_timed_video(tmp_path / "a.mp4", [0.0, 0.1, 0.6, 0.7, 1.1])
    settings = extract_frames.FrameSettings(quality=95)
    assert extract_frames.extract_frames(uneven, tmp_path / "a", settings) == 6  # 0, 0.25 ... 1.25 seconds
    greys = [np.asarray(Image.open(path))[24, 8, 0] for path in sorted((tmp_path / "a").iterdir())]
    assert greys == pytest.approx([20, 28, 28, 44, 44, 52], abs=3)  # frames 0, 1, 1, 3, 3, 4
    turned = rotated_copy(tmp_path / "r.mp4", uneven, 1)
    extract_frames.extract_frames(turned, tmp_path / "r", extract_frames.FrameSettings(fps=1, side=24))
    with Image.open(tmp_path / "r/img_0001.jpg") as image:
        assert image.size == (24, 32)


def test_only_listed_videos_are_extracted(tmp_path: Path):
    """fails when --ids extracts other videos, or does not report missing ones"""
    write_timed_video(tmp_path / "raw.mp4", TENTHS)
    for name in ("one", "two"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / f"clips/{name}.mp4").write_bytes((tmp_path / "raw.mp4").read_bytes())
    ids = write_json(tmp_path / "list.json", [{"video_id": "two.mp4"}, {"video_id": "three"}])
    command = ["--from", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--ids", str(ids), *WORKERS]
    extract_frames.main(command)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["two"]
    assert skips(tmp_path / "out/skipped.jsonl") == {"three": "no file has this name"}


def test_videos_of_audioset_are_found_by_their_youtube_id(tmp_path: Path):
    """fails when the same YouTube id with different seconds in a list and in a file name does not match"""
    (tmp_path / "clips").mkdir()
    write_timed_video(tmp_path / "clips/Y-0SdAVK79lg.mp4", TENTHS, sound=("aac", 16000, "mono"))
    write_timed_video(tmp_path / "clips/abc.mp4", TENTHS, sound=("aac", 16000, "mono"))
    turns = [{"from": "human", "value": "What do you hear?"}, {"from": "gpt", "value": "A horn."}]
    records = [{"video_id": name, "conversations": turns} for name in ("-0SdAVK79lg_30.000_40.000", "0SdAVK79lgx_1")]
    ids = write_json(tmp_path / "raw/audiovideo_detail_10k.json", records)
    out = ["--out", str(tmp_path / "out")]
    valor.main([*out, *WORKERS, "--videos", str(tmp_path / "clips"), "--ids", str(ids)])
    made = tmp_path / "out/audioset"
    name = "-0SdAVK79lg_30.000_40.000"
    assert {path.name for path in made.glob("*/*-*")} == {name, f"{name}.wav"}
    (made / f"frames_recons/{name}").rename(made / "frames_recons/-0SdAVK79lg")
    (made / f"audio_22050hz_recons/{name}.wav").rename(made / "audio_22050hz_recons/-0SdAVK79lg.wav")
    multis.main([*out, "--from", str(tmp_path / "raw")])
    listed = json.loads((tmp_path / "out/audiovideo_detail_10k.json").read_text())
    assert [one["video_id"] for one in listed] == ["-0SdAVK79lg"]


def test_audio_of_any_kind(tmp_path: Path):
    """fails when channels are not averaged, a complete recording is not cut, or a segment is cut a second time"""
    import numpy as np
    import soundfile

    left = np.stack([tone(3.0), np.zeros(48000)], axis=1)
    source = write_audio(tmp_path / "stereo.flac", left, 16000, format="FLAC")
    assert extract_audio.extract_audio(source, tmp_path / "a.wav") == pytest.approx(3.0, abs=0.01)
    samples, rate_hz = soundfile.read(tmp_path / "a.wav")
    assert rate_hz == 22050 and np.abs(samples).max() == pytest.approx(0.25, abs=0.02)
    long = write_audio(tmp_path / "long.wav", np.concatenate([np.zeros(80000), tone(1.0, rate_hz=8000)]), 8000)
    extract_audio.extract_audio(long, tmp_path / "b.wav", cut=extract_audio.Cut(10.0, 1.0))
    samples, _ = soundfile.read(tmp_path / "b.wav")
    assert len(samples) == 22050 and np.sqrt((samples**2).mean()) == pytest.approx(0.35, abs=0.02)
    extract_audio.extract_audio(source, tmp_path / "c.wav", cut=extract_audio.Cut(130.0, 3.0))
    assert soundfile.info(tmp_path / "c.wav").duration == pytest.approx(3.0, abs=0.01)


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
