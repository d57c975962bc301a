"""Frame choice by formula and golden, both decoders, frame folders, and broken files."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import pickle
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from chatbridge.common.errors import MediaError
from chatbridge.processors import video, video_index, video_pyav, video_torchcodec
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.sampling import groups, sample_frames, uniform_frames
from chatbridge.processors.video import READERS, VideoProcessor
from chatbridge.processors.video_pyav import read_by_pyav
from tests.helpers.media_files import bands, image_bytes, tone, write_audio, write_video
from tests.helpers.torchcodec_libraries import needs_torchcodec
from tests.helpers.video_files import KINDS, cut_by_edit_list, decoded_from_start, moving, write_moving

TORCHCODEC = pytest.param("torchcodec", marks=needs_torchcodec())
EXACT = ["pyav", TORCHCODEC]
BACKENDS = ["decord", *EXACT]


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


def test_golden_tables(reference: Path):
    """Fails when a group, an evaluation pick or a uniform pick differs from the reference, its float slips left out."""
    facts = json.loads((reference / "golden" / "chatbridge_frame_sampling.json").read_text())
    for row in facts["split"]:
        found = groups(row["length"], row["sample_num"])
        assert [first for first, _ in found] == row["group_first"]
        assert [first + size - 1 for first, size in found] == row["group_last"]
        assert sample_frames(row["length"], row["sample_num"]) == row["eval"]
    for row in facts["uniform"]:
        assert row.get("float_defect") or uniform_frames(row["length"], row["n"]) == row["indices"]
    more = json.loads((reference / "golden" / "multis_chatbridge.json").read_text())["split"]
    for row in more:
        assert sample_frames(row["n_items"], row["sample_num"]) == row["eval_pick"]


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


def picked(
    path: Path | bytes, picks: list[int], backend: str = "pyav", **limits: object
) -> tuple[list[np.ndarray], int]:
    """Frames by an exact reader, and the number of frames that it found."""
    lengths: list[int] = []
    frames = READERS[backend](path, lambda length: lengths.append(length) or picks, Limits(**limits))
    return frames, lengths[-1]


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("name", KINDS)
def test_sought_frames_are_those_decoded_from_the_start(name: str, backend: str, tmp_path: Path):
    """Fails when seeking, skipping or counting takes another frame than decoding from the start, in any container."""
    path = write_moving(tmp_path / name, **KINDS[name])
    want = decoded_from_start(path)
    rng = np.random.default_rng(0)
    for picks in ([0], [len(want) - 1], [5, 5, 30], list(range(len(want))), *rng.integers(0, len(want), (5, 4))):
        picks = sorted(map(int, picks))
        frames, length = picked(path, picks, backend)
        assert length == len(want)
        for pick, frame in zip(picks, frames, strict=True):
            np.testing.assert_array_equal(frame, want[pick], err_msg=f"frame {pick} of {picks}")


@pytest.mark.parametrize("backend", EXACT)
def test_frames_an_edit_list_hides_do_not_count(backend: str, tmp_path: Path):
    """Fails when frames are counted that no player shows, or the first shown ones cannot be decoded."""
    whole = write_moving(tmp_path / "whole.mp4", options={"g": "40"})
    path = cut_by_edit_list(whole, tmp_path / "cut.mp4", 12)
    want = decoded_from_start(whole)[12:]
    frames, length = picked(path, [0, 3, 20], backend)
    assert length == len(want) == 28
    np.testing.assert_array_equal(frames, [want[0], want[3], want[20]])


def test_packets_that_nothing_needs_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails when everything is decoded from the start, which costs more than the speed of exact seeking gains."""
    path = write_moving(tmp_path / "a.mp4", options={"g": "12"})
    decoded = []
    pixels_of = video_pyav.pixels_of
    monkeypatch.setattr(video_pyav, "pixels_of", lambda frame: decoded.append(frame.pts) or pixels_of(frame))
    monkeypatch.setattr(video_pyav, "_from_start", None)
    picked(path, [3, 3, 25])
    assert len(decoded) == 2


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


def test_mirrored_by_the_display_matrix():
    """Fails when a mirrored image is read as one rotated by half."""
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    one = 1 << 16
    for (a, b, c, d), want in {
        (one, 0, 0, one): pixels,
        (-one, 0, 0, one): pixels[:, ::-1],
        (one, 0, 0, -one): pixels[::-1],
        (0, one, one, 0): pixels.swapaxes(0, 1),
    }.items():
        matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32)
        np.testing.assert_array_equal(video_pyav.displayed(pixels, matrix), want)


def test_damaged_data_are_an_error(tmp_path: Path):
    """Fails when a frame that the decoder had to guess is read as a good one, or good frames before it are lost."""
    import av

    path = write_moving(tmp_path / "a.mp4", options={"g": "40", "bf": "0"}, width=160, height=120)
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[20]
    data = bytearray(path.read_bytes())
    inside = packet.pos + packet.size // 3
    data[inside : inside + 40] = np.random.default_rng(0).bytes(40)
    assert len(picked(bytes(data), [3, 10])[0]) == 2
    with pytest.raises(MediaError, match=r"data are damaged at 0\.\d\d s"):
        picked(bytes(data), [3, 30])
    for time in (None, float("nan")):
        assert "its data are damaged, and" in str(video_index.damaged(video_pyav._seconds(SimpleNamespace(time=time))))


def test_frames_before_a_gap_keep_their_numbers(tmp_path: Path):
    """Fails when a lost part moves frames before it, takes frames of other groups away, or is guessed."""
    path = write_moving(tmp_path / "a.ts", params="keyint=12:min-keyint=6:scenecut=0:bframes=3", num_frames=60)
    data = path.read_bytes()
    truth = [frame.tobytes() for frame in decoded_from_start(path)]
    for lost in range(30, 90, 10):
        at = len(data) * lost // 100 // 188 * 188  # packets of a transport stream
        path.write_bytes(data[:at] + data[at + 188 * 3 :])
        length = picked(path, [0])[1]
        assert length >= 57
        read = {}
        for number in range(0, length, 3):
            with contextlib.suppress(MediaError):
                read[number] = picked(path, [number])[0][0].tobytes()
        assert min(read) == 0 and max(read) > 50 and len(read) > 12
        assert all(found in truth[number : number + 4] for number, found in read.items())


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


def hurt(data: bytes, place: float, is_ts: bool) -> bytes:
    """A transport stream without one of its packets; another file with 60 bytes overwritten."""
    at = int(len(data) * place)
    if is_ts:
        at -= at % 188
        return data[:at] + data[at + 188 :]
    return data[:at] + b"\xff" * 60 + data[at + 60 :]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("short_groups.ts", {"options": {"g": "12"}}),
        ("one_group.ts", {"options": {"g": "250"}}),
        ("mpeg2.ts", {"codec": "mpeg2video", "options": {"g": "12"}}),
    ],
)
def test_one_lost_packet_hides_nothing_else(tmp_path: Path, name: str, options: dict[str, Any]):
    """Fails when one lost packet of a transport stream hides the rest of the video, or a frame that refers to what was
    lost is used."""
    path = write_moving(tmp_path / name, 60, **options)
    whole, truth = path.read_bytes(), [frame.tobytes() for frame in decoded_from_start(path)]
    num_failed = 0
    for number in range(30):
        data = hurt(whole, 0.03 + 0.94 * number / 30, is_ts=True)
        for pick in (4, 31, 55):
            lengths: list[int] = []
            try:
                found = read_by_pyav(data, lambda length: lengths.append(length) or [pick], Limits())  # noqa: B023
            except MediaError:
                num_failed += 1
            else:
                assert found[0].tobytes() in truth[pick : pick + 2]  # a lost frame moves the others by one
            assert lengths[0] >= 59
    assert 0 < num_failed < 45


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("short_groups.mkv", {"options": {"g": "12"}}),
        ("short_groups.mp4", {"options": {"g": "12"}}),
        ("short_groups.avi", {"codec": "mpeg4", "options": {"g": "12"}}),
    ],
)
def test_damage_elsewhere_hides_nothing_silently(tmp_path: Path, name: str, options: dict[str, Any]):
    """Fails when damage in one position silently removes more than its group of frames."""
    path = write_moving(tmp_path / name, 60, **options)
    whole, truth = path.read_bytes(), [frame.tobytes() for frame in decoded_from_start(path)]
    for number in range(30):
        lengths: list[int] = []
        first = 30 if number < 12 else 2  # well away from the damage
        data = hurt(whole, 0.03 + 0.94 * number / 30, is_ts=False)
        with contextlib.suppress(MediaError, OSError, ValueError):
            found = read_by_pyav(data, lambda length: lengths.append(length) or [first], Limits())  # noqa: B023
            assert lengths[0] > 60 - 2 * 12
            assert found[0].tobytes() in truth


@pytest.mark.parametrize("name", ["closed.mp4", "vp9.webm"])
@needs_torchcodec()
def test_torchcodec_seeks_where_key_frames_allow_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails when usual videos are decoded from the start for every frame."""
    path = write_moving(tmp_path / name, **KINDS[name])
    monkeypatch.setattr(video_torchcodec, "_from_start", None)
    frames, length = picked(path, [3, 3, 25], "torchcodec")
    assert (len(frames), length) == (3, 40)


@needs_torchcodec()
def test_torchcodec_counts_the_frames_that_are_missing(tmp_path: Path):
    """Fails when a frame that a lost packet took away moves the others without an error."""
    path = write_moving(tmp_path / "a.ts", params="keyint=12:min-keyint=12:scenecut=0:bframes=0", num_frames=60)
    want = decoded_from_start(path)
    video = video_torchcodec.Video(path)
    times = video.scan()
    assert len(times) == 60
    with pytest.raises(MediaError, match=r"data are damaged at 0\.16 s"):
        video_torchcodec._from_start(path, [30], [*times[:5], *(time - 0.04 for time in times[5:])])
    np.testing.assert_array_equal(video_torchcodec._from_start(path, [30], times)[0], want[30])


def test_torchcodec_without_ffmpeg_says_what_to_install(clip: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails when a machine without FFmpeg libraries shows the linker's errors instead of what to install."""

    def refuse(source: str) -> None:
        raise RuntimeError(
            "Could not load libtorchcodec. Likely causes: ... libavutil.so.61: cannot open shared object"
        )

    monkeypatch.setattr(video_torchcodec, "need", lambda *_: SimpleNamespace(Demuxer=refuse))
    with pytest.raises(MediaError, match="cannot load the FFmpeg libraries; install FFmpeg 4 to 9 .*apt-get install"):
        processor(backend="torchcodec")(clip)
