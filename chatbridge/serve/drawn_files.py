"""PNG files of the images that a model draws in a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.conversation.messages import Drawing
from chatbridge.processors.png_file import png_of
from chatbridge.serve.session import ChatTurn


class DrawnFiles:
    """Saves drawn images as drawing_001.png, drawing_002.png and so on; existing files stay as they are.

    folder   is made with the first image
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0

    def save(self, image: Tensor) -> Path:
        """The new file of an image, uint8[3, H, W]. raises OSError when it cannot be written"""
        content = png_of(image)
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._number += 1
            path = self.folder / f"drawing_{self._number:03d}.png"
            try:
                file = path.open("xb")
            except FileExistsError:
                continue
            try:
                with file:
                    file.write(content)
            except BaseException:  # of a full disk, for example
                path.unlink(missing_ok=True)
                raise
            return path

    def drawings_of(self, turn: ChatTurn) -> list[dict[str, Any]]:
        """The drawings of an answer in order, their images saved: caption; image, None without one; problem if any."""
        return [self._record(part) for part in turn.parts if isinstance(part, Drawing)]

    def _record(self, drawing: Drawing) -> dict[str, Any]:
        if not isinstance(drawing.ref, Tensor):
            return {"caption": drawing.caption, "image": None}
        try:
            return {"caption": drawing.caption, "image": str(self.save(drawing.ref))}
        except OSError as error:
            problem = f"cannot be saved in {self.folder}: {error.strerror or error}"
            return {"caption": drawing.caption, "image": None, "problem": problem}
