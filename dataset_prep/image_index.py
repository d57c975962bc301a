"""Pictures by their number: COCO_train2014_000000000009.jpg, 000000000009.jpg and VG_100K/9.jpg are all picture 9.

COCO's pictures are named otherwise in every release, and LLaVA, VQAv2 and MULTIS each name another one. A conversion
looks up the number among the files that are really there and writes the name it found, so any release will do.
"""

from __future__ import annotations

import re
from pathlib import Path

from chatbridge.common.errors import DataError
from dataset_prep.common.folders import files_below

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
NUMBER = re.compile(r"(\d+)$")


class ImageIndex:
    """What lies below a folder, by number.

    prefer   parts of a path, best first ("train2014"): which one to take where two files have the same number
    raises   DataError when there is no numbered picture at all
    """

    def __init__(self, folder: Path, prefer: tuple[str, ...] = ()):
        self.folder = folder
        self._paths: dict[int, str] = {}
        pictures = (path.as_posix() for path in files_below(folder) if path.name.lower().endswith(ENDINGS))
        for path in sorted(pictures, key=lambda path: _rank(path, prefer)):
            found = NUMBER.search(Path(path).stem)
            if found:
                self._paths.setdefault(int(found[1]), path)
        if not self._paths:
            raise DataError(f"{folder}: holds no picture with a number in its name, such as 000000000009.jpg")

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, number: int | str) -> str | None:
        """The path below the folder, with forward slashes; of a file name its last number counts."""
        if isinstance(number, str):
            found = NUMBER.search(Path(number).stem)
            if not found:
                return None
            number = int(found[1])
        return self._paths.get(number)


def _rank(path: str, prefer: tuple[str, ...]) -> tuple[int, str]:
    return next((k for k, part in enumerate(prefer) if part in path), len(prefer)), path
