"""`chatbridge weights fetch` against a small server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli.weights.command import main
from chatbridge.cli.weights.fetch_source import fetch_url
from chatbridge.common.errors import DataError
from chatbridge.datasets.remote_shards import download

CONTENT = bytes(range(256)) * 5000


class Server(ThreadingHTTPServer):
    """Serves CONTENT; can close the connection early, ignore ranges, or have another version of the file."""

    break_after: int | None = None
    knows_ranges = True
    etag = '"one"'
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path == "/none.bin":
            self.send_error(404)
            return
        body = b"<!doctype html>sign in" if self.path == "/page.bin" else CONTENT
        same = self.headers.get("If-Range") in (None, self.server.etag)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges and same else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(body[first : self.server.break_after])

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_sleep", lambda seconds: None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(("127.0.0.1", 0), Handler) as found:
        found.asked = []
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def url(server: Server, name: str = "eva.bin") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def test_a_file_arrives_whole(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when bytes are lost, the checksum is ignored, or an existing file is downloaded again."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert main(["fetch", url(server), str(tmp_path), "--sha256", sha256]) == 0
    assert (tmp_path / "eva.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["eva.bin"]
    assert main(["fetch", url(server), str(tmp_path / "eva.bin"), "--sha256", sha256]) == 0
    assert server.asked == [None]
    with pytest.raises(DataError, match=f"sha256 is {sha256}, expected 0000"):
        main(["fetch", url(server), str(tmp_path / "eva.bin"), "--sha256", "0" * 64])


def test_an_interrupted_download_resumes(server: Server, tmp_path: Path) -> None:
    """Fails when an incomplete download counts as complete, or starts again although the server supports ranges."""
    server.break_after = 300_000
    with pytest.raises(ValueError, match=r"300,000 of 1,280,000 bytes; run the same command to resume"):
        fetch_url(url(server), tmp_path / "eva.bin")
    assert not (tmp_path / "eva.bin").exists()
    assert server.asked == [None, *["bytes=300000-"] * 3]  # tried again without progress
    server.break_after = None
    assert fetch_url(url(server), tmp_path / "eva.bin").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=300000-"
    assert [path.name for path in tmp_path.iterdir()] == ["eva.bin"]


@pytest.mark.parametrize("change", ["another file", "no ranges"])
def test_a_download_that_cannot_resume_starts_again(server: Server, tmp_path: Path, change: str) -> None:
    """Fails when the halves of two versions of a file are joined."""
    server.break_after = 300_000
    with pytest.raises(ValueError, match="run the same command to resume"):
        fetch_url(url(server), tmp_path / "eva.bin")
    server.break_after = None
    server.knows_ranges, server.etag = change != "no ranges", '"two"' if change == "another file" else '"one"'
    assert fetch_url(url(server), tmp_path / "eva.bin").read_bytes() == CONTENT


def test_refusals_are_one_message(server: Server, tmp_path: Path) -> None:
    """Fails when a wrong address, a wrong checksum, a web page or a missing network leaves a file or a traceback."""
    for name, sha256, reason in (
        ("none.bin", None, "404 Not Found"),
        ("page.bin", None, "web page"),
        ("eva.bin", "0" * 64, "sha256 is"),
    ):
        with pytest.raises(ValueError, match=reason):
            fetch_url(url(server, name), tmp_path / "x.bin", sha256)
        assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="download it elsewhere"):
        fetch_url("http://127.0.0.1:9/eva.bin", tmp_path / "x.bin")


def test_the_hub_without_a_network(tmp_path: Path) -> None:
    """Fails when the hub's absence is not one clear sentence (tests are offline)."""
    with pytest.raises(DataError, match="owner/name: cannot be downloaded.*write its path into the YAML"):
        main(["fetch", "owner/name", str(tmp_path), "--file", "model.safetensors"])
    with pytest.raises(DataError, match="--sha256 applies to one file"):
        main(["fetch", "owner/name", str(tmp_path), "--sha256", "0"])


def test_patterns_choose_files_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when all files of a diffusion pipeline are downloaded, in every precision, although some were named"""
    asked: dict[str, Any] = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **more: asked.update(more) or str(tmp_path))
    assert main(["fetch", "owner/name", str(tmp_path), "--only", "*.json", "*.fp16.safetensors"]) == 0
    assert asked["allow_patterns"] == ["*.json", "*.fp16.safetensors"]
    with pytest.raises(DataError, match="keep one"):
        main(["fetch", "owner/name", str(tmp_path), "--only", "*.json", "--file", "a.json"])
    with pytest.raises(SystemExit):
        main(["fetch", "http://there/a.bin", str(tmp_path), "--only", "*.json"])


def test_two_fetches_of_one_file_at_once_ask_for_it_once(server: Server, tmp_path: Path):
    """fails when two commands write one .part file side by side"""
    target, url = tmp_path / "a.bin", f"http://127.0.0.1:{server.server_port}/a.bin"
    threads = [threading.Thread(target=fetch_url, args=(url, target)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None]
    assert list(tmp_path.iterdir()) == [target]
