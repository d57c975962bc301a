"""Foreign code and foreign files: a media file is data of an accepted format, and reading it reads nothing else."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.container_file import ACCEPTED, check_content
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.image_file import FORMATS, is_image, num_frames, read_image
from chatbridge.processors.limits import Limits
from chatbridge.processors.video import VideoProcessor
from dataset_prep.common.workers import Unusable
from dataset_prep.video_frames import opened
from tests.helpers.media_files import write_video
from tests.helpers.torchcodec_libraries import unloadable

DOORS = {
    r"\bImage\.open\(": "chatbridge/processors/image_file.py",
    r"\bav\.open\((?!.*\"w\")": "chatbridge/processors/container_file.py",
    r"\bVideoReader\(": "chatbridge/processors/video_decord.py",
    r"\b(Demuxer|VideoDecoder|AudioDecoder)\(": "chatbridge/processors/video_torchcodec.py",
}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(run) print\n%%EOF\n"
PLAYLISTS: dict[str, str] = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{name}\n#EXT-X-ENDLIST\n",
    "list.m3u": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{name}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile {name}\n",
    "hidden.mp4": "ffconcat version 1.0\nfile {name}\n",
    "list.mpd": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT2S"><Period><AdaptationSet>'
    '<Representation id="1" bandwidth="1"><BaseURL>{name}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.pls": "[playlist]\nFile1={name}\nNumberOfEntries=1\n",
    "list.asx": '<asx version="3.0"><entry><ref href="{name}"/></entry></asx>',
    "link.url": "[InternetShortcut]\nURL=file://{name}\n",
    "tagged.mp3": "ID3\4\0\0\0\0\0\x0aTIT2\0\0\0\0\0\0"
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{name}\n#EXT-X-ENDLIST\n",
}


def readers(folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Everything that opens a container."""
    clip = VideoProcessor(ImageProcessor(16), 2)
    return {
        "pyav": clip.within(Limits(video_backend="pyav")),
        "decord": clip.within(Limits(video_backend="decord")),
        **({"torchcodec": clip.within(Limits(video_backend="torchcodec"))} if unloadable() is None else {}),
        "sound": AudioProcessor(target_frames=16),
        "dataset_prep": lambda ref: opened(ref if isinstance(ref, Path) else saved(folder / "saved", ref)),
    }


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_one_module_opens_files_with_a_decoder(repository: Path):
    """fails when a module opens media past the allow-lists; names the line"""
    files = [*repository.glob("*.py"), *(repository / "chatbridge").rglob("*.py")]
    files += (repository / "dataset_prep").rglob("*.py")
    found = [
        f"{path.relative_to(repository)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for sign, door in DOORS.items()
        if re.search(sign, line) and path != repository / door
    ]
    assert found == []
    for sign, door in DOORS.items():
        assert re.search(sign, (repository / door).read_text(encoding="utf-8")), "the pattern finds nothing"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("run.eps", EPS, "PostScript"),
        ("run.jpg", EPS, "PostScript"),
        ("run.png", b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIIIH", 30, len(EPS), 0, 0, 0, 0, 0) + EPS, "PostScript"),
        ("layers.psd", b"8BPS\0\1" + bytes(40), "Photoshop"),
        ("old.wmf", b"\xd7\xcd\xc6\x9a" + bytes(40), "metafile"),
        ("stars.fits", b"SIMPLE  =                    T" + bytes(90), "FITS"),
    ],
)  # fmt: skip
def test_programs_and_foreign_formats_are_not_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, what: str
):
    """fails when a PostScript program reaches the plugin that runs it, or another format is not refused by its name"""
    from PIL import EpsImagePlugin

    ran: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **more: ran.append(given))
    path = saved(tmp_path / name, content)
    for train in (False, True):
        with pytest.raises(MediaError, match=rf"(?s){what}.*accepted: JPEG, PNG"):
            ImageProcessor(8, train=train, lean=train)(path)
    with pytest.raises(MediaError, match=what):
        read_image(content)
    assert not is_image(path) and not ran


def test_the_accepted_image_formats_are_read():
    """fails when the allow-list refuses a format that it names"""
    Image.init()
    for kind in set(FORMATS) & set(Image.SAVE):
        out = io.BytesIO()
        Image.new("RGB", (8, 8), (200, 10, 10)).save(out, kind)
        assert abs(int(read_image(out.getvalue())[4, 4, 0]) - 200) < 16, kind
        assert num_frames(out.getvalue()) == 1


@pytest.mark.parametrize("name", PLAYLISTS)
def test_files_that_name_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """fails when a playlist, a manifest or a link makes a reader open the file that it names"""
    monkeypatch.chdir(tmp_path)
    write_video(Path("secret.mp4"), 4, tone_hz=440.0)
    path = saved(tmp_path / name, PLAYLISTS[name].format(name="secret.mp4").encode())
    for reader, read in readers(tmp_path).items():
        for ref in (path, path.read_bytes()):
            with pytest.raises((MediaError, Unusable, OSError, ValueError)) as caught:
                read(ref)
            if reader != "dataset_prep":
                assert isinstance(caught.value, MediaError), reader
                assert re.search(r"names other|not the file itself", str(caught.value)), (reader, str(caught.value))


def test_numbers_in_a_name_fill_nothing_in(tmp_path: Path):
    """fails when img_%03d.png reads its neighbours img_001.png ..."""
    for number, level in ((1, 90), (2, 180)):
        Image.new("RGB", (32, 32), (level, 0, 0)).save(tmp_path / f"img_{number:03d}.png")
    path = tmp_path / "img_%03d.png"
    Image.new("RGB", (32, 32)).save(path)
    for backend in ("pyav", "decord", "torchcodec") if unloadable() is None else ("pyav", "decord"):
        processor = VideoProcessor(ImageProcessor(8, mean=(0, 0, 0), std=(1, 1, 1)), 2, backend)
        assert processor(path).max() == 0
    with pytest.raises(Unusable, match="a format that is not allowed"):
        opened(path)


def test_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a file called concat:a|b, or subfile,,...:a, makes a reader open a"""
    monkeypatch.chdir(tmp_path)
    write_video(Path("secret.mp4"), 4)
    size = Path("secret.mp4").stat().st_size
    for name in ("concat:secret.mp4|secret.mp4", f"subfile,,start,0,end,{size},,:secret.mp4", "file:secret.mp4"):
        Path(name).write_bytes(b"x" * 500)
        for reader in set(readers(tmp_path)) - {"dataset_prep"}:
            with pytest.raises(MediaError):
                readers(tmp_path)[reader](name)


def elsewhere(content: bytes, name: bytes = b"secret.mp4\0") -> bytes:
    """The MP4 with its data reference made external: flag taken back."""
    at = content.index(b"dref") + 12  # after version, flags and the number of entries: the first entry
    assert content[at + 4 : at + 8] == b"url " and content[at + 11] == 1
    return content[: at + 11] + b"\0" + content[at + 12 :]


def test_tracks_in_other_files_are_refused(tmp_path: Path):
    """fails when a QuickTime or MP4 file whose data are kept elsewhere is opened"""
    whole = write_video(tmp_path / "whole.mp4", 4, tone_hz=440.0).read_bytes()
    path = saved(tmp_path / "elsewhere.mov", elsewhere(whole))
    for reader, read in readers(tmp_path).items():
        for ref in (path, path.read_bytes()):
            with pytest.raises((MediaError, Unusable)) as caught:
                read(ref)
            said = str(caught.value) + str(getattr(caught.value, "detail", ""))
            assert "data are in another file" in said, reader
        read(tmp_path / "whole.mp4")


def test_usual_containers_are_accepted(tmp_path: Path):
    """fails when the allow-list, or the look at the first bytes for decord and torchcodec, refuses what people have"""
    from tests.helpers.video_files import KINDS, write_moving

    for name, how in KINDS.items():
        path = write_moving(tmp_path / name, 6, **how)
        check_content(path)
        assert VideoProcessor(ImageProcessor(8), 2, "pyav")(path).shape == (2, 3, 8, 8), name
    assert "concat" not in ACCEPTED.split(",") and "hls" not in ACCEPTED.split(",")
    with pytest.raises(MediaError, match="not one of the accepted formats"):
        check_content(b"\xfe\xdc" * 300)
