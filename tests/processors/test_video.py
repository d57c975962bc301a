"""Frame choice by formula and golden, both decoders, frame folders, and broken files."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from pathlib import Path
from types import FrameType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from chatbridge.common.errors import MediaError
from chatbridge.processors import video, video_torchcodec
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.piece_choice import sample_frames
from chatbridge.processors.video import READERS, VideoProcessor
from tests.helpers.media_files import bands, image_bytes, tone, write_audio, write_video
from tests.helpers.torchcodec_libraries import TORCHCODEC
from tests.helpers.video_files import KINDS, decoded_from_start, moving, write_moving

EXACT = ["pyav", TORCHCODEC]


BACKENDS = ["decord", *EXACT]


def grey_levels(clip: torch.Tensor) -> list[int]:
    """Frame numbers of a clip from write_video: frame i is 15 * i bright."""
    pixels = (clip[:, 0] * CLIP_STD[0] + CLIP_MEAN[0]) * 255
    return [round(float(frame.mean()) / 15) for frame in pixels]


def processor(num_frames: int = 4, **options: object) -> VideoProcessor:
    return VideoProcessor(ImageProcessor(16), num_frames, **options)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", tone_hz=440)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
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
        (tmp_path / f"img_{index}.png").write_bytes(image_bytes("PNG", pixels, "L" if index % 2 else "RGB"))
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
def test_broken_videos_report_the_reason(backend: str, clip: Path, tmp_path: Path):
    """Fails when a broken video hangs, ends in another error, or in one without its path and a reason."""
    whole = clip.read_bytes()
    front = write_video(tmp_path / "front.mp4", size=96, index_last=False).read_bytes()
    broken = {
        "cut.mp4": (whole[: len(whole) // 2], "not a readable video"),
        "torn.mp4": (front[: int(len(front) * 0.7)], "not a readable video|breaks off"),
        "text.mp4": (b"hello" * 100, "not a readable video"),
        "empty.mp4": (b"", "file is empty"),
        "sound.wav": (write_audio(tmp_path / "sound.wav", tone(0.5)).read_bytes(), "no video stream"),
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
    """Fails when a misspelled backend is read as automatic choice."""
    with pytest.raises(ValueError, match="allowed: auto, decord, pyav, torchcodec"):
        processor(backend="ffmpeg")


@pytest.mark.parametrize("backend", BACKENDS)
def test_reads_in_forked_workers(clip: Path, backend: str):
    """Fails when a decoder that was used before a fork blocks in the child."""
    read = processor(backend=backend)
    want = read(clip)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        got = pool.apply_async(_levels, (read, clip)).get(timeout=120)
    assert got == grey_levels(want)


def test_decord_is_quiet_in_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Fails when every broken clip leaves a line of decord's between the lines of the run."""
    (tmp_path / "text.mp4").write_bytes(b"hello" * 100)
    reader = DataLoader([str(tmp_path / "text.mp4")], num_workers=1, batch_size=None, collate_fn=_reason)
    assert "not a readable video" in next(iter(reader))
    assert "ERROR opening" not in capfd.readouterr().err


def _reason(path: str) -> str:
    try:
        return str(processor(backend="decord")(path).shape)
    except MediaError as error:
        return str(error)


def _levels(read: VideoProcessor, path: Path) -> list[int]:
    torch.set_num_threads(1)
    return grey_levels(read(path))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_phone_videos_are_upright(backend: str, rotation: int, tmp_path: Path):
    """Fails when the display matrix of a file is ignored or followed the wrong way round."""
    upright = write_moving(tmp_path / "upright.mp4", 4, 128, 80)
    turned = write_moving(tmp_path / "turned.mp4", 4, 128, 80, rotation=rotation)
    image = ImageProcessor(16)
    want = image.from_pixels(np.rot90(decoded_from_start(upright)[1], rotation // 90).copy())
    got = VideoProcessor(image, 4, backend)(turned)[1]
    torch.testing.assert_close(got, want, atol=0.03, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["closed.mp4", "mpeg4.avi", "vp8.webm"])
def test_limits(backend: str, name: str, tmp_path: Path):
    """Fails when a long video is looked at beyond its limit, or a limit is kept without a reason for the log."""
    path = write_moving(tmp_path / name, **KINDS[name])  # 40 frames, 25 a second
    read = processor(5, backend=backend, sampling="uniform")
    lengths = []
    short = read.within(Limits(max_seconds=0.4))
    short._choose = lambda length, rng: lengths.append(length) or [0] * 5
    short(path)
    assert lengths == [10]
    refusals = {
        "the video is too long: 0.4 s are allowed": Limits(max_seconds=0.4, too_long="refuse"),
        "64 x 48 are 0.0 million pixels": Limits(max_pixels=64 * 48 - 1),
        "data.media.max_file_mb": Limits(max_file_mb=0.0001),
    }
    for reason, limits in refusals.items():
        with pytest.raises(MediaError, match=rf"{name}: .*{reason}"):
            read.within(limits)(path)


def test_cover_images_are_no_videos(tmp_path: Path):
    """Fails when the cover of an audio file is shown as a video."""
    import av

    with av.open(str(tmp_path / "song.mp4"), "w") as file:
        cover = file.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        file.mux(cover.encode(av.VideoFrame.from_ndarray(moving(1, 16, 16)[0], format="rgb24")))
        file.mux(cover.encode())
    with pytest.raises(MediaError, match="no video stream"):
        processor(backend="pyav")(tmp_path / "song.mp4")


def test_lean_frames(clip: Path, tmp_path: Path):
    """Fails when the frames of training videos are not bytes, or differ from the float ones by more than a level."""
    lean = VideoProcessor(ImageProcessor(16, train=True, lean=True), 4)
    exact = lean.within(Limits(pixels="float"))(clip)
    got = lean(clip)
    assert got.dtype == torch.uint8 and exact.is_floating_point()
    assert (lean.image.statistics.normalised(got) - exact).abs().max() < 1.001 / 255 / min(CLIP_STD)
    for index in range(6):
        (tmp_path / f"{index}.jpg").write_bytes(image_bytes("JPEG"))
    assert lean(tmp_path).dtype == torch.uint8
    assert (lean(exact).int() - got.int()).abs().max() <= 1  # ready floats join a batch of bytes


def test_taking_another_number_of_frames(clip: Path):
    """Fails when a source cannot have its own number of frames, or the copy changes the processor it came from."""
    read = processor(4)
    more = read.taking(6).within(Limits(max_seconds=100))
    assert more(clip).shape[0] == more.count == 6 and read.count == 4
    again = pickle.loads(pickle.dumps(more))
    assert torch.equal(again(clip), more(clip)) and again.image.limits.max_seconds == 100


def test_backend_follows_the_limits(monkeypatch: pytest.MonkeyPatch, clip: Path):
    """Fails when video_backend is ignored, or the automatic choice is not the faster one that is installed."""
    used = []
    for name in READERS:
        monkeypatch.setitem(READERS, name, lambda *_, name=name: used.append(name) or [bands()])
    for limits in (Limits(), *(Limits(video_backend=name) for name in READERS)):
        processor().within(limits)(clip)
    processor(backend="decord").within(Limits(video_backend="pyav"))(clip)
    monkeypatch.setattr(video, "find_spec", lambda name: None if name == "av" else object())
    processor()(clip)
    assert used == ["pyav", *READERS, "decord", "decord"]


def test_reading_leaves_nothing_to_the_garbage_collector(tmp_path: Path):
    """Fails when reading ties frames into cycles: their memory waits for a collection, and loader workers grow."""
    path = write_moving(tmp_path / "a.mp4", options={"g": "12"})
    read = VideoProcessor(ImageProcessor(16, train=True, lean=True), 4, "pyav")
    read(path)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what a collection finds is kept; threads of other tests leave things of their own
    try:
        for _ in range(5):
            read(path)
        gc.collect()
        found = [_name_of(kept) for kept in gc.garbage]
        held = [type(held).__name__ for held in gc.get_referents(*gc.garbage) if _is_image(held)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert [name for name in found if name.startswith(("av.", "torch.", "chatbridge."))] == held == []


def _is_image(held: object) -> bool:
    return isinstance(held, np.ndarray) and held.dtype == np.uint8 and held.ndim == 3


def _name_of(kept: object) -> str:
    """Where an object comes from; of a function's frame, whose function it is."""
    if isinstance(kept, FrameType):
        return f"{kept.f_globals.get('__name__', '')}."
    return f"{type(kept).__module__}."


def test_torchcodec_without_ffmpeg_says_what_to_install(clip: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails when a machine without FFmpeg libraries shows the linker's errors instead of what to install."""

    def refuse(source: str) -> None:
        raise RuntimeError(
            "Could not load libtorchcodec. Likely causes: ... libavutil.so.61: cannot open shared object"
        )

    monkeypatch.setattr(video_torchcodec, "need", lambda *_: SimpleNamespace(Demuxer=refuse))
    with pytest.raises(MediaError, match="cannot load the FFmpeg libraries; install FFmpeg 4 to 9 .*apt-get install"):
        processor(backend="torchcodec")(clip)
