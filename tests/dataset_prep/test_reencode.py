"""Re-encoded videos, and the worker processes of the media scripts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from dataset_prep import reencode
from dataset_prep.common.workers import Unusable, spread
from tests.helpers.media_files import tone, write_audio
from tests.helpers.odd_videos import rotated_copy, write_timed_video

EVERY_TENTH = [k / 10 for k in range(25)]


def read(path: Path) -> tuple[list[float], list[int], list[np.ndarray]]:
    """Times, numbers of the key frames, pixels uint8[H, W, 3]."""
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        keys = [k for k, frame in enumerate(frames) if frame.key_frame]
        return [frame.time for frame in frames], keys, [frame.to_ndarray(format="rgb24") for frame in frames]


def audio_of(path: Path) -> tuple[int, int, float, float]:
    """Sample rate in Hz, channels, seconds, time of the first audible sample."""
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        wave = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        rate_hz = frames[0].sample_rate
        heard = frames[0].time + np.flatnonzero(np.abs(wave) > 0.1)[0] / rate_hz
        return rate_hz, len(frames[0].layout.channels), len(wave) / rate_hz, float(heard)


def test_a_video_becomes_small_with_a_key_frame_per_second(tmp_path: Path):
    """fails when size, times, colours or key frames are not as promised"""
    source = write_timed_video(tmp_path / "a.mp4", EVERY_TENTH, size=(640, 480))
    clip = reencode.reencode(source, tmp_path / "out/b.mp4")
    times, keys, pixels = read(tmp_path / "out/b.mp4")
    assert (clip.frames, clip.has_audio) == (25, False)
    assert clip.seconds == pytest.approx(2.5, abs=0.02)
    assert times == pytest.approx(EVERY_TENTH, abs=1e-3)
    assert keys == [0, 10, 20]
    assert pixels[0].shape == (256, 342, 3)  # 341.3, even sides
    before = read(source)[2]
    for number in (0, 24):
        there = before[number].reshape(-1, 640, 3)
        for x, wide in ((80, 640), (560, 640)):
            difference = pixels[number][128, x * 342 // wide].astype(int) - there[240, x]
            assert np.abs(difference).max() <= 4, (number, x)


@pytest.mark.parametrize("quarters, left_half_is", [(1, "top"), (2, "right"), (3, "bottom")])
def test_rotation_is_applied(tmp_path: Path, quarters: int, left_half_is: str):
    """fails when a rotated video is not rotated, or in the wrong direction"""
    source = rotated_copy(tmp_path / "r.mp4", write_timed_video(tmp_path / "a.mp4", EVERY_TENTH[:3]), quarters)
    reencode.reencode(source, tmp_path / "b.mp4")
    pixels = read(tmp_path / "b.mp4")[2][0]
    assert pixels.shape[:2] == ((48, 64) if quarters == 2 else (64, 48))
    parts = {"top": pixels[:10], "bottom": pixels[-10:], "left": pixels[:, :10], "right": pixels[:, -10:]}
    blueness = {name: part[..., 2].mean() for name, part in parts.items()}
    assert min(blueness, key=lambda name: blueness[name]) == left_half_is
    assert blueness[left_half_is] < 60 and max(blueness.values()) > 150


def test_time_stamps_of_a_variable_rate_are_kept(tmp_path: Path):
    """fails when frames are spaced evenly, or key frames are counted in frames instead of seconds"""
    uneven = [0.0, 0.1, 0.2, 0.9, 1.3, 1.35, 3.0]
    reencode.reencode(write_timed_video(tmp_path / "a.mp4", uneven), tmp_path / "b.mp4")
    times, keys, _ = read(tmp_path / "b.mp4")
    assert times == pytest.approx(uneven, abs=1e-3)
    assert keys == [0, 4, 6]


@pytest.mark.parametrize(
    "name, codec, sound, rate_hz, channels",
    [
        ("a.mp4", "libx264", ("aac", 44100, "stereo"), 44100, 2),
        ("a.webm", "libvpx", ("libopus", 48000, "mono"), 48000, 1),
        ("a.avi", "mpeg4", ("pcm_s16le", 8000, "mono"), 8000, 1),
        ("a.mkv", "libx264", ("ac3", 48000, "5.1"), 48000, 2),
    ],
)
def test_audio_is_kept(tmp_path: Path, name: str, codec: str, sound: tuple, rate_hz: int, channels: int):
    """fails when a video loses its audio track, or the track changes its length or position"""
    source = write_timed_video(tmp_path / name, EVERY_TENTH, codec=codec, sound=sound)
    assert reencode.reencode(source, tmp_path / "b.mp4").has_audio
    rate, count, seconds, heard = audio_of(tmp_path / "b.mp4")
    assert (rate, count) == (rate_hz, channels)
    assert seconds == pytest.approx(2.5, abs=0.1) and heard < 0.08


def test_audio_that_begins_later_is_not_moved(tmp_path: Path):
    """fails when audio and frames are not synchronous"""
    sound = ("aac", 16000, "mono")
    source = write_timed_video(tmp_path / "a.mp4", EVERY_TENTH, sound=sound, sound_start_s=1.0)
    reencode.reencode(source, tmp_path / "b.mp4")
    assert audio_of(tmp_path / "b.mp4")[3] == pytest.approx(1.0, abs=0.08)


def test_a_folder_of_videos(tmp_path: Path, capsys):
    """fails when a bad video stops the others, a reason is lost, or a second run repeats finished files"""
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "sub").mkdir(parents=True)
    good = write_timed_video(raw / "a.mp4", EVERY_TENTH[:4])
    (raw / "sub/a.mov").write_bytes(good.read_bytes())
    (raw / "a.mkv").write_bytes(good.read_bytes())
    (raw / "cut.mp4").write_bytes(good.read_bytes()[:700])
    (raw / "empty.webm").touch()
    half = write_timed_video(tmp_path / "half.webm", EVERY_TENTH, codec="libvpx").read_bytes()
    (raw / "half.webm").write_bytes(half[: len(half) // 2])
    (raw / "notes.txt").write_text("no clip")
    write_audio(raw / "sound.wav", tone(0.2)).rename(raw / "sound.avi")
    command = ["--from", str(raw), "--out", str(out), "--workers", "2"]
    assert reencode.main(command) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert [file["path"] for file in manifest["files"]] == ["a.mp4", "sub/a.mp4"]
    assert manifest["skipped"] == {
        "another file has the same name": 1, "is truncated": 1, "cannot be read": 2, "has no video stream": 1
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    (raw / "empty.webm").write_bytes(good.read_bytes())
    assert reencode.main(command) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert json.loads((out / "manifest.json").read_text())["samples"] == 3
    assert not list(out.rglob(".*"))
    assert "skipped 1: cannot be read" in capsys.readouterr().out


def difficult(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), 9)
    if number == 2:
        time.sleep(60)
    if number == 3:
        raise Unusable("has no frames", "three")
    if number == 4:
        raise OSError(5, "Input/output error")
    return number * number


def test_crashes_and_hangs_cost_one_file(tmp_path: Path):
    """fails when a decoder that crashes or hangs affects other files, or has no reason"""
    done = {one.item: one for one in spread(difficult, range(8), workers=2, limit_s=1.5)}
    assert {k: one.result for k, one in done.items() if one.reason is None} == {0: 0, 5: 25, 6: 36, 7: 49}
    assert {k: (one.reason, one.detail) for k, one in done.items() if one.reason} == {
        1: ("the decoder crashed", "its process was ended by SIGKILL, perhaps because memory ran out"),
        2: ("reading it hung", "its process was ended after 1.5 s"),
        3: ("has no frames", "three"),
        4: ("cannot be read", "OSError: Input/output error"),
    }
