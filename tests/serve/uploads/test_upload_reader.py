"""Uploads whose decoding hangs, crashes or exceeds the limits are refused, and the chat continues."""

from __future__ import annotations

import os
import signal
import threading
import time
import zlib
from pathlib import Path
from struct import pack

import pytest
import torch

from chatbridge.common.errors import MediaError
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.uploads import upload_reader as module
from chatbridge.serve.uploads.upload_reader import UploadReader
from tests.helpers.serve_parts import write_files


class FaultyProcessor(ImageProcessor):
    """An image processor whose behavior depends on the file name."""

    def __call__(self, ref, rng=None):
        name = Path(str(ref)).name
        if name.startswith("hang"):
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # like C code that never returns
            time.sleep(600)
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith("count"):
            with open(Path(str(ref)).parent / "count.log", "a") as file:
                file.write(f"{os.getpid()}\n")
        if name.startswith("bug"):
            raise RuntimeError("not foreseen")
        return super().__call__(ref, rng)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader") / "uploads"
    image = write_files(folder)["image"].read_bytes()
    for name in ("hang", "crash", "count", "bug"):
        (folder / f"{name}.jpg").write_bytes(image + name.encode())  # no two have the same content
    return folder


@pytest.fixture(scope="module")
def reader() -> UploadReader:
    return UploadReader({"image": FaultyProcessor(28)}, ChatLimits(time_limit_s=1.5), num_fork_servers=1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "hang.jpg",
            r"^hang\.jpg: reading it hung: its process was ended after 1\.5 s.*evaluation\.chat\.time_limit_s",
        ),
        ("crash.jpg", r"^crash\.jpg: the decoder crashed: its process was ended by SIGSEGV"),
        ("bug.jpg", r"bug\.jpg: cannot be read \(RuntimeError: not foreseen\)"),
    ],
)
def test_a_decoder_that_fails_costs_its_upload_only(reader: UploadReader, folder: Path, name: str, reason: str):
    """fails when a decoder that hangs or crashes ends the server, or the next file is not read"""
    with pytest.raises(MediaError, match=reason):
        reader.attach(folder / name)
    (item,) = reader.attach(folder / "photo.jpg").media
    assert torch.equal(item.ref.tensor, ImageProcessor(28)(folder / "photo.jpg"))
    assert torch.equal(reader.read("image", folder / "photo.jpg").tensor, item.ref.tensor)


def test_a_file_is_decoded_once_in_another_process(reader: UploadReader, folder: Path):
    """fails when an upload is decoded twice, or in the process that serves the page"""
    reader.attach(folder / "count.jpg")
    (pid,) = (folder / "count.log").read_text().split()
    assert int(pid) != os.getpid()


def test_a_fork_server_that_was_killed_is_replaced(folder: Path):
    """fails when no upload can be read after the process that forks readers was killed"""
    reader = UploadReader({"image": ImageProcessor(28)}, ChatLimits(), num_fork_servers=1)
    (server,) = reader._fork_servers
    first = server._end.peek()[2][0]
    os.kill(first, signal.SIGKILL)
    with pytest.raises(MediaError, match=r"^photo\.jpg: the process that reads files ended"):
        reader.attach(folder / "photo.jpg")
    assert reader.attach(folder / "photo.jpg").kind == "image"
    second = server._end.peek()[2][0]
    reader.close()
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_files_are_read_in_parallel(folder: Path):
    """fails when one slow upload delays all others, or results reach the wrong caller"""
    reader = UploadReader({"image": FaultyProcessor(28)}, ChatLimits(time_limit_s=3.0))
    lost: list[str] = []

    def hang() -> None:
        try:
            reader.attach(folder / "hang.jpg")
        except MediaError as error:
            lost.append(str(error))

    slow = threading.Thread(target=hang)
    slow.start()
    assert reader.attach(folder / "photo.jpg").path.name == "photo.jpg"
    assert slow.is_alive()
    slow.join()
    assert len(lost) == 1 and lost[0].startswith("hang.jpg")


def test_limits_of_the_chat_apply(folder: Path, tmp_path: Path):
    """fails when a small PNG may decode to a hundred million pixels, or the message names another setting"""
    size = 9999
    rows = zlib.compress((b"\0" + b"\0" * -(-size // 8)) * size, 9)  # one bit a pixel
    chunks = [b"IHDR" + pack(">IIBBBBB", size, size, 1, 0, 0, 0, 0), b"IDAT" + rows, b"IEND"]
    sized = [pack(">I", len(chunk) - 4) + chunk + pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    path = tmp_path / "large.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(sized))
    assert path.stat().st_size < 30_000
    limits = ChatLimits()
    reader = UploadReader({"image": ImageProcessor(28).within(limits.limits)}, limits, num_fork_servers=1)
    with pytest.raises(MediaError, match=r"^large\.png: .*50 million are allowed \(evaluation\.chat\.max_pixels\)"):
        reader.attach(path)
    tight = ChatLimits(max_file_mb=0.0001)
    small = UploadReader({"image": ImageProcessor(28).within(tight.limits)}, tight, num_fork_servers=1)
    with pytest.raises(MediaError, match=r"evaluation\.chat\.max_file_mb"):
        small.attach(folder / "photo.jpg")


def test_without_fork_the_main_process_reads(folder: Path, monkeypatch):
    """fails when uploads need fork"""
    monkeypatch.setattr(module, "can_fork", lambda: False)
    assert UploadReader({"image": ImageProcessor(28)}, ChatLimits()).attach(folder / "photo.jpg").kind == "image"
