"""Images by their number: COCO_train2014_000000000009.jpg, 000000000009.jpg and VG_100K/9.jpg are all image 9.

The releases of COCO have different file names, and LLaVA, VQAv2 and MULTIS refer to different releases. A conversion
looks up the number among the existing files and writes the name of the file, so every release can be used.
"""

from __future__ import annotations

import re
from pathlib import Path

from chatbridge.common.errors import DataError
from dataset_prep.common.input_files import files_below

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
NUMBER = re.compile(r"(\d+)$")


class ImageIndex:
    """The images below a folder, by number.

    prefer   parts of a path, best first ("train2014"): of two files with the same number, the better one is used
    raises   DataError when no image has a number
    """

    def __init__(self, folder: Path, prefer: tuple[str, ...] = ()):
        self.folder = folder
        self._paths: dict[int, str] = {}
        images = (path.as_posix() for path in files_below(folder) if path.name.lower().endswith(ENDINGS))
        for path in sorted(images, key=lambda path: _rank(path, prefer)):
            found = NUMBER.search(Path(path).stem)
            if found:
                self._paths.setdefault(int(found[1]), path)
        if not self._paths:
            raise DataError(f"{folder}: contains no image with a number in its name, such as 000000000009.jpg")

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, number: int | str) -> str | None:
        """The path relative to the folder, with forward slashes; None if there is none.

        number   of the image, or a file name, whose last number is used
        """
        if isinstance(number, str):
            found = NUMBER.search(Path(number).stem)
            if not found:
                return None
            number = int(found[1])
        return self._paths.get(number)


def _rank(path: str, prefer: tuple[str, ...]) -> tuple[int, str]:
    return next((k for k, part in enumerate(prefer) if part in path), len(prefer)), path
