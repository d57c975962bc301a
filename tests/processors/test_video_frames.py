"""Exact frames: every container, edit lists, rotations, and damaged files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import MediaError
from chatbridge.processors import video_index, video_pyav, video_torchcodec
from chatbridge.processors.limits import Limits
from chatbridge.processors.video import READERS
from chatbridge.processors.video_pyav import read_by_pyav
from chatbridge.processors.video_rate import frames_per_second
from tests.helpers.torchcodec_libraries import TORCHCODEC, needs_torchcodec
from tests.helpers.video_files import KINDS, cut_by_edit_list, decoded_from_start, write_moving

EXACT = ["pyav", TORCHCODEC]


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


def test_a_track_of_an_unknown_codec_is_told(tmp_path: Path):
    """Fails when a damaged name of the codec, for which there is no decoder, ends in an error of PyAV's objects."""
    data = write_moving(tmp_path / "closed.mp4", 10).read_bytes()
    at = data.rindex(b"avc1")
    unknown = data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
    for read in (lambda: picked(unknown, [2]), lambda: frames_per_second(unknown)):
        with pytest.raises(MediaError, match="video track has an unknown codec, or a damaged header"):
            read()


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


@needs_torchcodec()
def test_frames_of_ten_bits_are_the_same_but_for_rounding(tmp_path: Path):
    """fails when torchcodec chooses other frames of a 10-bit video, or converts them with another color range"""
    from tests.torture.videos import VIDEOS

    (file,) = (one for one in VIDEOS if one.name == "ten_bit.mp4")
    file.write(tmp_path / file.name)
    ours, theirs = (READERS[name](tmp_path / file.name, range, Limits()) for name in ("pyav", "torchcodec"))
    assert len(ours) == len(theirs) == 12
    assert np.abs(np.stack(ours).astype(int) - np.stack(theirs)).mean() < 2
