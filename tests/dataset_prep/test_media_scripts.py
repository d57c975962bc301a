"""The scripts that extract frames and audio, and the lookup of media by number or YouTube id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from dataset_prep import extract_audio, extract_frames, multis, valor
from dataset_prep.image_index import ImageIndex
from tests.helpers.media_files import tone, write_audio
from tests.helpers.mini_multis import TENTHS, WORKERS, skips
from tests.helpers.odd_videos import rotated_copy, write_timed_video
from tests.helpers.tiny_media import jpeg, write_json


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
