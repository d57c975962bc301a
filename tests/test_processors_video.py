"""Frame choice by formula and golden, both decoders, frame folders, and broken files."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import picture_bytes, tone, write_sound, write_video

from chatbridge.common.errors import MediaError
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from chatbridge.processors.sampling import groups, sample_frames, uniform_frames
from chatbridge.processors.video import VideoProcessor

BACKENDS = ["decord", "pyav", "auto"]


def grey_levels(clip: torch.Tensor) -> list[int]:
    """Frame numbers of a clip from write_video: frame i is 15 * i bright."""
    pixels = (clip[:, 0] * CLIP_STD[0] + CLIP_MEAN[0]) * 255
    return [round(float(frame.mean()) / 15) for frame in pixels]


def processor(num_frames: int = 4, **options: object) -> VideoProcessor:
    return VideoProcessor(ImageProcessor(16), num_frames, **options)


def test_groups_are_those_of_array_split():
    """Fails when groups overlap, leave a gap or are not nearly equal."""
    for length in range(1, 40):
        for count in range(1, length + 1):
            want = [(int(part[0]), len(part)) for part in np.array_split(np.arange(length), count)]
            assert groups(length, count) == want
    assert groups(2, 4) == [(0, 1), (1, 1), (1, 1), (1, 1)]
    with pytest.raises(ValueError, match="4 of 0"):
        groups(0, 4)


def test_training_takes_any_member_evaluation_the_middle():
    """Fails when training cannot reach a frame or leaves its group, or evaluation is not the lower middle."""
    rng = np.random.default_rng(3)
    drawn = np.array([sample_frames(10, 4, rng) for _ in range(300)])
    assert [sorted(set(column)) for column in drawn.T] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert sample_frames(10, 4) == [1, 4, 6, 8]
    assert sample_frames(10, 4, np.random.default_rng(5)) == sample_frames(10, 4, np.random.default_rng(5))


def test_uniform_starts_at_zero_and_has_no_extra_index():
    """Fails when float steps return an index too many (7 of 17)."""
    assert uniform_frames(17, 7) == [0, 2, 4, 7, 9, 12, 14]
    assert uniform_frames(3, 8) == [0, 1, 2]


def test_golden_tables(shared: Path):
    """Fails when a group, an evaluation pick or a uniform pick differs from the reference, its float slips left out."""
    facts = json.loads((shared / "golden" / "chatbridge_frame_sampling.json").read_text())
    for row in facts["split"]:
        found = groups(row["length"], row["sample_num"])
        assert [first for first, _ in found] == row["group_first"]
        assert [first + size - 1 for first, size in found] == row["group_last"]
        assert sample_frames(row["length"], row["sample_num"]) == row["eval"]
    for row in facts["uniform"]:
        assert row.get("float_defect") or uniform_frames(row["length"], row["n"]) == row["indices"]
    more = json.loads((shared / "golden" / "multis_chatbridge.json").read_text())["split"]
    for row in more:
        assert sample_frames(row["n_items"], row["sample_num"]) == row["eval_pick"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", tone_hz=440)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_wanted_frames_arrive(backend: str, clip: Path):
    """Fails when a decoder returns neighbours of the wanted frames, in another order, or axes are swapped."""
    read = processor(backend=backend)
    got = read(clip)
    assert got.shape == (4, 3, 16, 16)
    assert grey_levels(got) == sample_frames(16, 4)
    assert torch.equal(read(clip.read_bytes()), got)
    rng = np.random.default_rng(1)
    assert grey_levels(read(clip, rng)) == sample_frames(16, 4, np.random.default_rng(1))
    assert grey_levels(processor(5, backend=backend, sampling="uniform")(clip)) == [0, 3, 6, 9, 12]


@pytest.mark.parametrize("backend", BACKENDS)
def test_short_videos_repeat_the_last_frame(backend: str, tmp_path: Path):
    """Fails when a video with fewer frames than wanted is refused or loses frames."""
    path = write_video(tmp_path / "short.mp4", num_frames=2)
    assert grey_levels(processor(backend=backend)(path)) == [0, 1, 1, 1]
    assert grey_levels(processor(3, backend=backend, sampling="uniform")(path)) == [0, 1, 1]


def test_frame_folders(tmp_path: Path):
    """Fails when frame 10 comes before frame 2, a grey frame stays grey, or other files count as frames."""
    for index in range(12):
        pixels = np.full((20, 30, 3), 15 * index, np.uint8)
        (tmp_path / f"img_{index}.png").write_bytes(picture_bytes("PNG", pixels, "L" if index % 2 else "RGB"))
    (tmp_path / "notes.txt").write_text("not a frame")
    assert grey_levels(processor(12)(tmp_path)) == list(range(12))
    assert grey_levels(processor(4)(str(tmp_path))) == [1, 4, 7, 10]


def test_tensors(clip: Path):
    """Fails when raw frames are not sampled as files are, or a ready clip is touched."""
    frames = torch.stack([torch.full((3, 20, 30), 15 * index, dtype=torch.uint8) for index in range(16)])
    got = processor()(frames)
    assert grey_levels(got) == sample_frames(16, 4)
    assert torch.equal(processor()(got), got)
    with pytest.raises(MediaError, match=r"ready float\[4, 3, 16, 16\]"):
        processor()(got[:3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_videos_say_why(backend: str, clip: Path, tmp_path: Path):
    """Fails when a broken video hangs, ends in another error, or in one without its path and a reason."""
    whole = clip.read_bytes()
    front = write_video(tmp_path / "front.mp4", size=96, index_last=False).read_bytes()
    broken = {
        "cut.mp4": (whole[: len(whole) // 2], "not a readable video"),
        "torn.mp4": (front[: int(len(front) * 0.7)], "not a readable video|breaks off"),
        "text.mp4": (b"hello" * 100, "not a readable video"),
        "empty.mp4": (b"", "file is empty"),
        "sound.wav": (write_sound(tmp_path / "sound.wav", tone(0.5)).read_bytes(), "no video stream"),
    }
    for name, (data, reason) in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=rf"{name}: .*({reason})"):
            processor(backend=backend)(tmp_path / name)
    with pytest.raises(MediaError, match=r"none\.mp4: no such file"):
        processor(backend=backend)(tmp_path / "none.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MediaError, match="folder: it has no frames"):
        processor(backend=backend)(tmp_path / "folder")


def test_unknown_backend():
    """Fails when a misspelled backend is taken for automatic choice."""
    with pytest.raises(ValueError, match="allowed: auto, decord, pyav"):
        processor(backend="ffmpeg")


def test_reads_in_forked_workers(clip: Path):
    """Fails when a decoder that was used before a fork blocks in the child."""
    read = processor()
    want = read(clip)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        got = pool.apply_async(_levels, (read, clip)).get(timeout=30)
    assert got == grey_levels(want)


def _levels(read: VideoProcessor, path: Path) -> list[int]:
    torch.set_num_threads(1)
    return grey_levels(read(path))
