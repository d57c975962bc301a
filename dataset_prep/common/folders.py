"""What lies below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from chatbridge.common.file_names import is_hidden


def files_below(folder: Path) -> Iterator[Path]:
    """Paths below the folder, relative to it, in no order; whatever is no folder and not hidden counts.

    Links to folders are followed, as people link train2014 and val2014 into one; not one that leads back to a folder
    that it is in, which has no end.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if any(os.path.realpath(above) == real for above in Path(place).absolute().parents):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not is_hidden(name)]
        inside = Path(place).relative_to(folder)
        yield from (inside / name for name in names if not is_hidden(name))
