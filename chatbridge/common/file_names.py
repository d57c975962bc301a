"""Names of files that systems leave behind: they are no data, whatever their ending says."""

from __future__ import annotations

FOLDERS = ("__MACOSX",)  # macOS puts a copy of every attribute there when it packs a zip


def is_hidden(name: str) -> bool:
    """Whether a file or a folder of it begins with a dot (`._x.jpg`, `.DS_Store`, `.cache/x.jpg`), or is macOS's own.

    name   relative to what is searched: a dot in the folder that a person named is their own business
    """
    if "." not in name and "__" not in name:
        return False
    parts = name.replace("\\", "/").split("/")
    return any((part[:1] == "." and part not in (".", "..")) or part in FOLDERS for part in parts)
