"""Hashes of the media of questions."""

from __future__ import annotations

import torch

from chatbridge.processors.media_source import Rolled, SideBySide
from chatbridge.tasks.receipt_questions import media_digest


def test_every_kind_of_media_has_a_hash_of_its_content(tmp_path):
    """fails when a byte of a small file, the size or an end of a large one, or a frame of a folder does not count"""
    file, frames = tmp_path / "a.bin", tmp_path / "frames"
    frames.mkdir()
    content = bytearray(5 << 20)

    def digest(change: int | None = None, size: int = len(content), name: str = "a.bin") -> str:
        found = content[:size]
        if change is not None:
            found[change] = 1
        (tmp_path / name).write_bytes(found)
        return media_digest(tmp_path / name)

    large = [digest(), digest(0), digest(len(content) - 1), digest(size=len(content) - 1)]
    small = [digest(size=300_000), digest(150_000, size=300_000), digest(size=300_001)]
    assert len({*large, *small}) == 7 and digest(name="b.bin") == large[0]
    (frames / "0.jpg").write_bytes(b"x")
    one = media_digest(frames)
    (frames / "1.jpg").write_bytes(b"y")
    others = {media_digest(str(frames)), media_digest(b"x"), media_digest(torch.zeros(2)), media_digest(torch.ones(2))}
    pairs = {media_digest(SideBySide(file, frames)), media_digest(SideBySide(frames, file)), media_digest(Rolled(file))}
    assert len({one, *others, *pairs, media_digest(tmp_path / "missing")}) == 9
