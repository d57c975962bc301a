"""Uploaded files become typed parts, or a reason a person can act on."""

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
from chatbridge.serve.upload_parts import Attachment, attach, kind_of
from tests.helpers.media_files import write_sound
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
    """The modalities of an attachment, whose media are what the processors make of the file."""
    for item in found.media:
        expected = PROCESSORS[item.modality](found.path, None)
        torch.testing.assert_close(item.ref.tensor, expected, rtol=0, atol=0)
    return [item.modality for item in found.media]


def test_a_video_brings_its_own_sound(files):
    """fails when the sound track of a video is lost, or stands before it, where the template does not join them"""
    found = attach(files["video"], PROCESSORS)
    assert kinds(found) == ["video", "audio"]
    assert (found.kind, found.note) == ("video with its audio", "")


def test_a_video_without_sound_is_a_video_alone(files):
    """fails when silence is invented, or the person is not told"""
    found = attach(files["silent_video"], PROCESSORS)
    assert kinds(found) == ["video"]
    assert found.note == "silent.mp4 has no audio track, so it is shown as a video alone"


def test_a_video_whose_sound_breaks_is_a_video_alone(files, monkeypatch):
    """fails when a broken sound track takes the readable video with it, or goes unsaid"""

    def broken(ref, rng=None):
        raise MediaError(f"{ref}: the sound lasts no time at all")

    found = attach(files["video"], {**PROCESSORS, "audio": broken})
    assert kinds(found) == ["video"]
    assert "clip.mp4 cannot be read" in found.note and "lasts no time at all" in found.note


def test_a_model_takes_what_it_has_a_way_for(files):
    """fails when media reach a model without a route, or the message does not say what it takes"""
    seeing = {"image": PROCESSORS["image"], "video": PROCESSORS["video"]}
    assert kinds(attach(files["video"], seeing)) == ["video"]
    with pytest.raises(MediaError, match=r"tone.wav: this model takes no audio; it takes image \(jpg, .*, video"):
        attach(files["audio"], seeing)
    hearing = attach(files["video"], {"audio": PROCESSORS["audio"]})
    assert kinds(hearing) == ["audio"] and "only its audio track is used" in hearing.note
    with pytest.raises(MediaError, match="no sound track"):
        attach(files["silent_video"], {"audio": PROCESSORS["audio"]})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", r"^half\.jpg: .*it is cut off"),
        ("empty", r"^empty\.wav: the file is empty"),
        ("words", r"^notes\.txt is no file this model can take; it takes image"),
    ],
)
def test_what_cannot_be_read_gives_a_reason(files, name, reason):
    """fails when a bad file gets through, or its message names a folder of the server"""
    with pytest.raises(MediaError, match=reason) as caught:
        attach(files[name], PROCESSORS)
    assert str(files[name].parent) not in str(caught.value)


def test_kinds_follow_the_content_where_names_mislead(files, tmp_path):
    """fails when a recording in a video container is taken for a video, or a file without an ending is refused"""
    assert [kind_of(files[name]) for name in ("image", "video", "audio")] == ["image", "video", "audio"]
    sound = write_sound(tmp_path / "voice.ogg", 0.1 * np.ones(8000), format="OGG")
    assert kind_of(sound.rename(tmp_path / "voice.webm")) == "audio"
    nameless = tmp_path / "upload"
    nameless.write_bytes(files["video"].read_bytes())
    assert kinds(attach(nameless, PROCESSORS)) == ["video", "audio"]
    nameless.write_bytes(files["image"].read_bytes())
    assert kinds(attach(nameless, PROCESSORS)) == ["image"]


def test_a_nameless_picture_of_too_many_pixels_gives_a_reason(files, tmp_path):
    """fails when PIL's alarm about a picture without an ending ends in a traceback"""
    header = struct.pack(">4sIIBBBBB", b"IHDR", 40_000, 40_000, 1, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"")]
    sized = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    nameless = tmp_path / "upload"
    nameless.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(sized))
    assert kind_of(nameless) == "image"
    with pytest.raises(MediaError, match="^upload"):
        attach(nameless, PROCESSORS)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_video_or_says_that_it_is_cut(kind, tmp_path):
    """fails when all frames of an animation but one are lost without a word"""
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "lime", "blue", "white")]
    path = tmp_path / f"turn.{kind.lower()}"
    frames[0].save(path, format=kind, save_all=True, append_images=frames[1:], duration=100)
    found = attach(path, PROCESSORS)
    assert kinds(found) == ["video"] and found.media[0].ref.tensor.shape[0] == 2
    assert found.note == f"{path.name} is an animation of 4 frames, so it is read as a video"
    found = attach(path, {"image": PROCESSORS["image"]})
    assert kinds(found) == ["image"]
    assert found.note == f"{path.name} holds 4 frames or pages; the model sees the first one only"


def test_pages_of_a_tiff_say_that_one_is_taken(tmp_path):
    """fails when pages of a document become a video, or are lost without a word"""
    pages = [Image.new("RGB", (40, 30), color) for color in ("red", "lime")]
    path = tmp_path / "scan.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    found = attach(path, PROCESSORS)
    assert kinds(found) == ["image"] and "2 frames or pages" in found.note
