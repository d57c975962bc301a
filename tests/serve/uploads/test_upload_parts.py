"""Uploaded files become typed parts, or an error that the user can act on."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import VideoProcessor
from chatbridge.serve.uploads.upload_parts import Attachment, attach, kind_of
from tests.helpers.media_files import write_audio
from tests.helpers.serve_parts import write_files

PROCESSORS = {
    "image": ImageProcessor(28),
    "video": VideoProcessor(ImageProcessor(28), 2),
    "audio": AudioProcessor(mel_bins=32, target_frames=32),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("attach") / "uploads")


def kinds(found: Attachment) -> list[str]:
    """The modalities of an attachment; asserts that its media are the outputs of the processors."""
    for item in found.media:
        expected = PROCESSORS[item.modality](found.path, None)
        torch.testing.assert_close(item.ref.tensor, expected, rtol=0, atol=0)
    return [item.modality for item in found.media]


def test_a_video_is_followed_by_its_audio_track(files):
    """fails when the audio track of a video is lost, or precedes it, where templates do not join them"""
    found = attach(files["video"], PROCESSORS)
    assert kinds(found) == ["video", "audio"]
    assert (found.kind, found.note) == ("video with its audio", "")


def test_a_video_without_an_audio_track_has_a_note(files):
    """fails when silence is added, or the user gets no note"""
    found = attach(files["silent_video"], PROCESSORS)
    assert kinds(found) == ["video"]
    assert found.note == "silent.mp4 has no audio track; only the video is used"


def test_a_video_with_a_broken_audio_track_has_a_note(files, monkeypatch):
    """fails when a broken audio track makes the video unreadable, or the user gets no note"""

    def broken(ref, rng=None):
        raise MediaError(f"{ref}: the audio is empty (0 samples)")

    found = attach(files["video"], {**PROCESSORS, "audio": broken})
    assert kinds(found) == ["video"]
    assert found.note == (
        "the audio track of clip.mp4 cannot be read (the audio is empty (0 samples)); only the video is used"
    )


def test_only_modalities_with_a_processor_are_accepted(files):
    """fails when media reach a model without a route, or the message lacks the accepted modalities"""
    seeing = {"image": PROCESSORS["image"], "video": PROCESSORS["video"]}
    assert kinds(attach(files["video"], seeing)) == ["video"]
    with pytest.raises(MediaError, match=r"tone.wav: this model cannot process audio; it accepts image \(jpg.*, video"):
        attach(files["audio"], seeing)
    hearing = attach(files["video"], {"audio": PROCESSORS["audio"]})
    assert kinds(hearing) == ["audio"] and "only its audio track is used" in hearing.note
    with pytest.raises(MediaError, match="no audio track"):
        attach(files["silent_video"], {"audio": PROCESSORS["audio"]})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", r"^half\.jpg: .*it is cut off"),
        ("empty", r"^empty\.wav: the file is empty"),
        ("words", r"^notes\.txt is not a file that this model can process; it accepts image"),
    ],
)
def test_unreadable_files_are_refused_with_a_reason(files, name, reason):
    """fails when an unreadable file is accepted, or the message names a folder of the server"""
    with pytest.raises(MediaError, match=reason) as caught:
        attach(files[name], PROCESSORS)
    assert str(files[name].parent) not in str(caught.value)


def test_content_decides_where_file_names_are_ambiguous(files, tmp_path):
    """fails when audio in a video container is read as a video, or a file without an ending is refused"""
    assert [kind_of(files[name]) for name in ("image", "video", "audio")] == ["image", "video", "audio"]
    sound = write_audio(tmp_path / "voice.ogg", 0.1 * np.ones(8000), format="OGG")
    assert kind_of(sound.rename(tmp_path / "voice.webm")) == "audio"
    nameless = tmp_path / "upload"
    nameless.write_bytes(files["video"].read_bytes())
    assert kinds(attach(nameless, PROCESSORS)) == ["video", "audio"]
    nameless.write_bytes(files["image"].read_bytes())
    assert kinds(attach(nameless, PROCESSORS)) == ["image"]


def test_an_oversized_image_without_an_ending_is_refused(files, tmp_path):
    """fails when PIL's DecompressionBombError about a file without an ending is not caught"""
    header = struct.pack(">4sIIBBBBB", b"IHDR", 40_000, 40_000, 1, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"")]
    sized = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    nameless = tmp_path / "upload"
    nameless.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(sized))
    assert kind_of(nameless) == "image"
    with pytest.raises(MediaError, match="^upload"):
        attach(nameless, PROCESSORS)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_video_or_has_a_note(kind, tmp_path):
    """fails when all frames of an animation but the first are dropped without a note"""
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "lime", "blue", "white")]
    path = tmp_path / f"turn.{kind.lower()}"
    frames[0].save(path, format=kind, save_all=True, append_images=frames[1:], duration=100)
    found = attach(path, PROCESSORS)
    assert kinds(found) == ["video"] and found.media[0].ref.tensor.shape[0] == 2
    assert found.note == f"{path.name} is an animation of 4 frames and is read as a video"
    found = attach(path, {"image": PROCESSORS["image"]})
    assert kinds(found) == ["image"]
    assert found.note == f"{path.name} has 4 frames or pages; only the first one is used"


def test_a_tiff_of_several_pages_has_a_note(tmp_path):
    """fails when pages of a document become a video, or are dropped without a note"""
    pages = [Image.new("RGB", (40, 30), color) for color in ("red", "lime")]
    path = tmp_path / "scan.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    found = attach(path, PROCESSORS)
    assert kinds(found) == ["image"] and "2 frames or pages" in found.note
