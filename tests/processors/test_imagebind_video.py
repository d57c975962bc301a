"""Which frames ImageBind's clips take, and what becomes of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors.imagebind_video import ImageBindVideoProcessor
from chatbridge.processors.media_processor import PieceCountError
from chatbridge.processors.video_rate import frames_per_second
from tests.helpers.media_files import write_video


def test_which_frames() -> None:
    """Fails when a rule, a border, or the first and last frame of a clip is off by one, or short videos break."""
    five = {rule: ImageBindVideoProcessor(8, 15, rule).choice(20, Fraction(5)) for rule in ("imagebind", "chatbind")}
    assert five["imagebind"] == [0, 9, 3, 12, 5, 14, 8, 17, 10, 19]  # 4 s at 5 frames per second
    assert five["chatbind"] == [0, 9, 2, 11, 4, 13, 6, 15, 8, 17]
    released = ImageBindVideoProcessor(8, 15).choice(54, Fraction(5))  # rounded up after 5 * 8.8 in floating point
    assert released == [0, 9, 11, 20, 22, 31, 33, 43, 44, 53]
    assert ImageBindVideoProcessor(8, 6).choice(3, Fraction(25)) == [0, 2, 0, 2]  # shorter than a clip
    assert ImageBindVideoProcessor(8, 6).choice(4, Fraction(1, 5)) == [0, 0, 3, 3]  # a clip has no whole frame
    with pytest.raises(MediaError, match="no frames"):
        ImageBindVideoProcessor(8, 3).choice(0, Fraction(5))


def test_frames_and_crops_of_a_file(tmp_path: Path) -> None:
    """Fails when the rate of the file is not used, pieces are in another order, or training draws clips."""
    path = write_video(tmp_path / "a.mp4", num_frames=16)  # frame i has grey level 15 * i, 8 frames per second: no room
    assert frames_per_second(path) == 8
    processor = ImageBindVideoProcessor(16, 15)
    assert processor.draws is None and processor.count == 15
    clips = processor(path, np.random.default_rng(0))
    assert clips.shape == processor.item_shape == (15, 3, 2, 16, 16)
    grey = processor.image.statistics
    level = (clips[:, 0].mean((-1, -2)) * grey.std[0] + grey.mean[0]) * 255  # [pieces, 2]
    assert (level - torch.tensor([0.0, 225.0])).abs().max() < 3
    assert torch.equal(processor(path), clips) and torch.equal(processor(path.read_bytes()), clips)
    assert processor.images(clips).shape == (10, 3, 16, 16)


@pytest.mark.parametrize("package", ["decord", "torchcodec"])
def test_the_rate_by_other_libraries(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a machine without PyAV takes the rate from elsewhere than its decoder."""
    pytest.importorskip(package)
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr("chatbridge.processors.video_rate.find_spec", lambda name: name == package or None)
    try:
        assert frames_per_second(path) == 8
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))


def test_the_order_of_pieces() -> None:
    """Fails when crops do not follow each other within a clip, or frames of clips are exchanged."""
    frames = torch.randint(256, (20, 3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    processor = ImageBindVideoProcessor(8, 9, untimed_fps=5)
    pieces, picks = processor(frames), processor.choice(20, Fraction(5))
    assert picks == [0, 9, 5, 14, 10, 19]
    for number, piece in enumerate(pieces):
        clip, crop = divmod(number, 3)
        for at in (0, 1):
            frame = frames[picks[2 * clip + at]].permute(1, 2, 0).numpy()
            assert torch.equal(piece[:, at], processor.crops(frame)[crop])


def test_the_longer_side_is_rounded_as_released() -> None:
    """Fails when 112 x 502 becomes 224 x 1004: in floating point, 502 / 112 * 224 is a little less."""
    ramp = np.clip(10 * (np.arange(502) - 90), 0, 255).astype(np.uint8)
    processor = ImageBindVideoProcessor(224, 3)
    left = processor.crops(np.broadcast_to(ramp[None, :, None], (112, 502, 3)))[0]  # [3, 224, 224]
    grey = processor.image.statistics
    got = float((left[0, 0, 200] * grey.std[0] + grey.mean[0]) * 255)
    assert got == pytest.approx(10 * (200.5 * 502 / 1003 - 0.5 - 90), abs=0.05)


def test_crops_go_along_the_longer_side() -> None:
    """Fails when crops of upright videos go sideways, their order changes, or the middle one is off by a pixel."""
    rows = torch.arange(24, dtype=torch.uint8).view(1, 1, 24, 1).expand(50, 3, 24, 11)
    processor = ImageBindVideoProcessor(11, 3)
    clips = processor.image.statistics.bytes_of(processor(rows)[:, :, 0])  # [crops, 3, S, S]
    assert clips[:, 0, 0, 5].tolist() == [0, 7, 13]  # 13 rows of room: the middle begins at 6.5, rounded up
    wide = processor.image.statistics.bytes_of(processor(rows.transpose(2, 3))[:, :, 1])
    assert wide[:, 0, 5, 0].tolist() == [0, 7, 13]


def test_videos_without_a_rate(tmp_path: Path) -> None:
    """Fails when an animation has another rate than its durations give, or a folder does not use the setting."""
    frames = [Image.fromarray(np.full((20, 20, 3), 10 * n, np.uint8)) for n in range(8)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    assert frames_per_second(tmp_path / "a.gif") == 2
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames):
        frame.save(folder / f"{number}.png")
    assert frames_per_second(folder) is None
    gif, slow = ImageBindVideoProcessor(8, 6)(tmp_path / "a.gif"), ImageBindVideoProcessor(8, 6, untimed_fps=2)(folder)
    torch.testing.assert_close(gif, slow, atol=0.1, rtol=0)  # a palette rounds
    assert not torch.allclose(ImageBindVideoProcessor(8, 6)(folder)[0], slow[0], atol=0.1)  # 25 per second: one clip


def test_what_is_no_video_of_this_kind() -> None:
    """Fails when pieces that are no whole clips pass, or a video of four axes is read as something else."""
    for count in (1, 4, 16):
        with pytest.raises(PieceCountError, match="multiple of 3"):
            ImageBindVideoProcessor(8, count)
    with pytest.raises(PieceCountError):
        ImageBindVideoProcessor(8, 6).taking(5)
    with pytest.raises(MediaError, match=r"uint8\[frames, 3, H, W\] or ready clips float\[6, 3, 2, 8, 8\]"):
        ImageBindVideoProcessor(8, 6)(torch.zeros(6, 3, 8, 8))
    ready = torch.randn(6, 3, 2, 8, 8)
    assert torch.equal(ImageBindVideoProcessor(8, 6)(ready), ready)
