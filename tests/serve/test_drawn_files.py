"""Images of a chat on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from chatbridge.conversation.messages import Drawing
from chatbridge.serve.drawn_files import DrawnFiles
from chatbridge.serve.session import ChatTurn
from tests.helpers.small_disk import small_disk


def test_a_full_disk_leaves_no_part_of_an_image(tmp_path: Path):
    """fails when a disk that is full leaves a file that cannot be opened, or ends the chat"""
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    files, turn = DrawnFiles(tmp_path), ChatTurn("draw", parts=(Drawing("noise", image),))
    with small_disk(1000):
        (record,) = files.drawings_of(turn)
    assert record["image"] is None and "cannot be saved" in record["problem"]
    assert not any(tmp_path.iterdir())
    (record,) = files.drawings_of(turn)
    assert Path(record["image"]).is_file()
