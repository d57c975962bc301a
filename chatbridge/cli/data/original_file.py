"""The file of a media item, for a page that plays it."""

from __future__ import annotations

from pathlib import Path

from chatbridge.serve.media_pictures.media_png import ReadMedia

SIGNATURES = (  # (bytes, offset, file extension)
    (b"\xff\xd8", 0, ".jpg"), (b"\x89PNG", 0, ".png"), (b"WEBP", 8, ".webp"), (b"WAVE", 8, ".wav"),
    (b"AVI ", 8, ".avi"), (b"fLaC", 0, ".flac"), (b"OggS", 0, ".ogg"), (b"ID3", 0, ".mp3"),
    (b"ftyp", 4, ".mp4"), (b"\x1aE\xdf\xa3", 0, ".webm"),
)  # fmt: skip


def original_file(item: ReadMedia, folder: Path, name: str) -> Path | None:
    """Return the media file, to be played by a page; bytes from a tar are written to the folder. None if unknown."""
    if isinstance(item.ref, (str, Path)):
        path = Path(item.ref)
        return path if path.is_file() else None
    if not isinstance(item.ref, bytes):
        return None
    ending = next((end for mark, at, end in SIGNATURES if item.ref[at : at + len(mark)] == mark), None)
    if ending is None:
        return None
    path = folder / f"{name}{ending}"
    path.write_bytes(item.ref)
    return path
