"""References of a request as private files: limits, names, types, and what is left behind."""

from __future__ import annotations

import base64
import errno
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatbridge.common.errors import MediaError
from chatbridge.serve.media_sources import MediaSources, SourceError, SourceLimits
from chatbridge.serve.media_sources.content_types import file_name, fits
from tests.helpers.media_files import image_bytes
from tests.helpers.media_server import MediaServer, media_server
from tests.helpers.serve_parts import ChatWorld

LIMITS = SourceLimits(ports=(), total_s=5, max_items=6, max_request_mb=0.05)
PNG = "data:image/png;base64," + base64.b64encode(b"pixels").decode()


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with media_server() as server:
        yield server


@pytest.fixture
def sources(server: MediaServer, tmp_path: Path) -> Iterator[MediaSources]:
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    sources = MediaSources(0.02, tmp_path, True, LIMITS, server.network)
    yield sources
    sources.close()
    assert not sources.folder.exists()


def refusal(sources: MediaSources, url: str, modality: str | None = "image") -> SourceError:
    with sources.request() as files, pytest.raises(SourceError) as found:
        files.fetch(url, modality)
    assert list(sources.folder.iterdir()) == []
    return found.value


def test_every_kind_of_reference_becomes_a_file(sources, server, tmp_path):
    server.add("/photo", b"remote", "image/jpeg")
    with sources.request() as files:
        found = [
            files.fetch(PNG, "image"),
            files.fetch(f"file://{tmp_path}/cat.jpg", "image"),
            files.fetch("http://photos.example/photo?sign=1", "image"),
            files.decode(base64.b64encode(b"sound").decode(), "mp3"),
        ]
        assert [one.path.read_bytes() for one in found] == [b"pixels", b"cat", b"remote", b"sound"]
        assert [one.path.name for one in found] == ["media.png", "cat.jpg", "photo.jpg", "media.mp3"]
        assert [one.modality for one in found] == ["image", "image", "image", "audio"]
        assert found[2].digest == hashlib.sha256(b"remote").hexdigest()
        assert found[2].shown == "http://photos.example/photo"
        assert found[0].num_bytes == 6
        assert found[0].path.stat().st_mode & 0o077 == 0 or sources.folder.stat().st_mode & 0o077 == 0
    assert list(sources.folder.iterdir()) == []


def test_a_copy_stays_the_same_when_the_file_changes(sources, tmp_path):
    with sources.request() as files:
        found = files.fetch(f"file://{tmp_path}/cat.jpg", "image")
        (tmp_path / "cat.jpg").write_bytes(b"dog")
        assert found.path.read_bytes() == b"cat"


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://photos.example/page", 415),
        ("http://photos.example/clip", 415),
        ("data:text/html,<b>", 415),
        ("data:image/png;base64,", 400),
        ("http://photos.example/big", 413),
        ("http://photos.example/announced", 413),
        ("data:image/png;base64," + "A" * 30_000, 413),
        ("http://photos.example/flood", 413),
        ("ftp://photos.example/a.png", 400),
        ("javascript:alert(1)", 400),
        ("data:image/png,\ud800", 400),
        ("file:///photos/\ud800.jpg", 400),
        ("http://xn--/a.png", 404),
        ("http://photos.example/moved", 404),
        ("gopher://127.0.0.1:6379/_x", 400),
        ("/etc/passwd", 400),
        ("cat.jpg", 400),
        ("", 400),
        ("http://127.0.0.1/", 403),
        ("file:///etc/passwd", 403),
    ],
)
def test_what_is_refused(sources, server, url, status):
    """fails when a request gets more, or other, content than it may; nothing is left behind"""
    server.add("/moved", b"", status=302, Location="http://xn--/")
    server.add("/page", b"<html>", "text/html; charset=utf-8")
    server.add("/clip", b"film", "video/mp4")
    server.add("/big", b"x" * 30_000, "image/png")
    server.add("/announced", b"x", "image/png", Content_Length="2000000000")
    server.add("/flood", "flood", "image/png")
    error = refusal(sources, url)
    assert error.status == status, str(error)
    assert isinstance(error, MediaError)
    assert error.code
    assert len(str(error)) < 500


def test_remote_addresses_need_permission(tmp_path, server):
    sources = MediaSources(1.0, None, False)
    assert "--allow-remote" in str(refusal(sources, "https://photos.example/a.png"))
    assert "--media-root" in str(refusal(sources, f"file://{tmp_path}/cat.jpg"))
    assert server.connected == []
    sources.close()


def test_a_request_has_limits_of_its_own(sources, tmp_path):
    (tmp_path / "some.jpg").write_bytes(b"x" * 18_000)
    with sources.request() as files:
        for _ in range(2):
            files.fetch(f"file://{tmp_path}/some.jpg")
        with pytest.raises(SourceError, match="larger than 0.05 MB together"):
            files.fetch(f"file://{tmp_path}/some.jpg")
    with sources.request() as files:
        for _ in range(6):
            files.fetch(PNG)
        with pytest.raises(SourceError, match="more than 6 media") as found:
            files.fetch(PNG)
    assert found.value.status == 413


def test_a_sparse_file_is_refused_unread(sources, tmp_path):
    with open(tmp_path / "huge.mp4", "wb") as file:
        file.truncate(2_000_000_000)
    error = refusal(sources, f"file://{tmp_path}/huge.mp4", "video")
    assert (error.status, "2,000.0 MB" in str(error)) == (413, True)


def test_a_full_disk_is_said(sources, monkeypatch):
    def full(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    assert refusal(sources, PNG).status == 507


def test_downloads_share_their_places(server):
    """fails when the places of downloads are counted wrong: the limit is passed, or a place is lost"""
    sources = MediaSources(1.0, None, True, SourceLimits(ports=(), max_downloads=2, total_s=20), server.network)
    server.add("/a.png", b"x" * 1000, "image/png")
    server.add("/torn", "torn", "image/png")
    lock, now, most = threading.Lock(), [0], [0]
    inner = sources.network.connect

    def counted(*given):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            return inner(*given)
        finally:
            with lock:
                now[0] -= 1

    object.__setattr__(sources.network, "connect", counted)

    def one(number: int) -> bytes | int:
        try:
            with sources.request() as files:
                return files.fetch(
                    f"http://h{number}.example/{'torn' if number % 5 == 0 else 'a.png'}"
                ).path.read_bytes()
        except SourceError as error:
            return error.status

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(one, range(30)))
    assert found == [502 if number % 5 == 0 else b"x" * 1000 for number in range(30)]
    assert most[0] <= 2
    assert sources._downloads._value == 2
    assert list(sources.folder.iterdir()) == []
    sources.close()


def test_waiting_for_a_place_ends(server, monkeypatch):
    monkeypatch.setattr("chatbridge.serve.media_sources.sources.POLL_S", 0.02)
    sources = MediaSources(1.0, None, True, SourceLimits(max_downloads=1, total_s=0.05), server.network)
    assert sources._downloads.acquire(timeout=1)
    assert refusal(sources, "http://photos.example/a.png").status == 503
    with sources.request(lambda: True) as files, pytest.raises(SourceError) as found:
        files.fetch("http://photos.example/a.png")
    assert found.value.status == 408
    sources.close()


def test_items_of_a_request_may_come_from_several_threads(sources):
    """fails when two threads take one place, or store under one name"""

    def one(files, number: int) -> bytes | int:
        try:
            data = base64.b64encode(b"%d" % number).decode()
            return files.fetch(f"data:image/png;base64,{data}").path.read_bytes()
        except SourceError as error:
            return error.status

    with sources.request() as files, ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda number: one(files, number), range(12)))
    assert found.count(413) == 6
    assert len(set(found)) == 7
    assert all(value in (413, b"%d" % number) for number, value in enumerate(found))


@pytest.mark.parametrize(
    ("sent", "type_", "name"),
    [
        ("photo.jpg", "image/jpeg", "photo.jpg"),
        ("photo.JPEG", "image/jpeg", "photo.JPEG"),
        ("photo", "image/jpeg", "photo.jpg"),
        ("clip.php", "video/mp4", "clip.php.mp4"),
        ("photo.jpg", "video/mp4", "photo.jpg.mp4"),
        ("scan.depth.png", "image/png", "scan.depth.png"),
        ("a.wav", "application/octet-stream", "a.wav"),
        ("../../etc/pass wd\n", "", "etc_pass_wd_"),
        ("...", "", "media"),
        ("", "audio/wav", "media.wav"),
        ("x" * 300 + ".png", "image/png", "x" * 76 + ".png"),
    ],
)
def test_names_of_stored_files(sent, type_, name):
    assert file_name(sent, type_).lstrip("_.") == name.lstrip("_.")
    assert "/" not in file_name(sent, type_)


@pytest.mark.parametrize(
    ("type_", "modality", "expected"),
    [
        ("image/png", "image", True),
        ("image/svg+xml", "video", False),
        ("image/gif", "video", True),
        ("video/mp4", "audio", True),
        ("audio/wav", "video", False),
        ("audio/wav", "image", False),
        ("application/ogg", "audio", True),
        ("application/octet-stream", "image", True),
        ("", "image", True),
        ("text/plain", "image", False),
        ("application/json", "audio", False),
        ("text/csv", "imu", True),
        ("text/html", "imu", False),
        ("text/html", None, True),
    ],
)
def test_types_and_modalities(type_, modality, expected):
    assert fits(type_, modality) == expected


def test_the_engine_reads_what_was_fetched(engine, world: ChatWorld):
    """fails when a copy cannot be decoded, or a playlist makes the decoder ask another machine"""
    sources = MediaSources(engine.limits.max_file_mb, world.files["image"].parent)
    data = base64.b64encode(image_bytes("PNG")).decode()
    with sources.request() as files:
        image = files.fetch(f"data:;base64,{data}", "image")
        assert engine.attach(image.path, image.modality).kind == "image"
        video = files.fetch(f"file://{world.files['video']}", "video")
        assert engine.attach(video.path).kind == "video with its audio"
        with media_server() as other:
            other.add("/secret.ts", b"secret")
            playlist = f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{other.port}/secret.ts\n#EXT-X-ENDLIST\n"
            listed = files.fetch("data:video/mp4," + playlist.replace("\n", "%0A").replace("#", "%23"), "video")
            with pytest.raises(MediaError):
                engine.attach(listed.path, "video")
            assert other.asked == []
    sources.close()
