"""One image of the web as TextBind stores it: its longest side 512 pixels, padded with white to a square, PNG."""

from __future__ import annotations

import io
import time
from pathlib import Path
from threading import Event

from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.common.safe_files import replace_bytes
from chatbridge.datasets.remote_shards.addresses import fault_of
from chatbridge.datasets.remote_shards.open_stream import FetchError, open_stream
from chatbridge.processors.image_file import read_image

MOST_BYTES = 50 << 20  # of a file: larger ones are not photos
MOST_WAIT_S = 30.0
LONGEST_S = 300.0  # of one download: a server that sends a few bytes per second would keep a thread for hours
WHITE = (255, 255, 255)
# Many hosts refuse a client that does not look like a browser
HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "image/avif,image/webp,image/png,image/*;q=0.8,*/*;q=0.5",
    "Accept-Language": "en-US,en;q=0.5",
}


def padded(content: bytes, side: int) -> Image.Image:
    """The upright RGB image with its longest side resized to `side`, centered on white. raises MediaError"""
    image = Image.fromarray(read_image(content))
    longest = max(image.size)
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    square = Image.new("RGB", (side, side), WHITE)
    square.paste(image.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    return square


def save_image(content: bytes, path: Path, side: int) -> None:
    """Write the padded image; a file at `path` is always a whole one. raises MediaError, OSError that names the file"""
    stream = io.BytesIO()
    padded(content, side).save(stream, "PNG")
    replace_bytes(path, stream.getvalue())


def download_image(url: str, path: Path, side: int, tries: int, stopped: Event | None = None) -> int:
    """Download and save an image; returns how many tries it took.

    stopped  ends the wait between two tries, and the tries
    raises   FetchError or MediaError of the last try: dead links (404, 410 ...) and files that are no image are not
             tried again, an answer that is cut short is
    """
    stopped = stopped or Event()
    for number in range(1, tries + 1):
        try:
            save_image(read_bytes(url), path, side)
            return number
        except FetchError as error:
            wait_s = min(MOST_WAIT_S, max(error.wait_s, 0.5 * 2 ** (number - 1)))
            if error.is_final or number == tries or stopped.wait(wait_s):
                raise
        except MediaError:
            if number == tries or number > 1 or stopped.is_set():  # the first answer may have been cut short
                raise
    raise AssertionError("tries is 1 or more")


def read_bytes(url: str) -> bytes:
    """The content of an http address. raises FetchError, also for other addresses and for a file above 50 MB"""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        raise FetchError("is not an http address", is_final=True)
    if (fault := fault_of(address := f"{scheme.lower()}://{rest}")) is not None:
        raise FetchError(fault, is_final=True)
    begun, stream = time.monotonic(), open_stream(address, 0, "", HEADERS)
    if stream.total is not None and stream.total > MOST_BYTES:
        raise FetchError(f"the file has {stream.total:,} bytes, more than {MOST_BYTES:,}", is_final=True)
    parts, size = [], 0
    for chunk in stream.chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            raise FetchError(f"the file has more than {MOST_BYTES:,} bytes", is_final=True)
        if time.monotonic() - begun > LONGEST_S:
            raise FetchError(f"is not complete after {LONGEST_S:.0f} s", is_final=True)
    if stream.total is not None and size < stream.total:
        raise FetchError(f"the download ended after {size:,} of {stream.total:,} bytes")
    return b"".join(parts)
