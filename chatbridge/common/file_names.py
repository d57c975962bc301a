"""Files that operating systems create by themselves and that are not data, whatever their extension."""

from __future__ import annotations

FOLDERS = ("__MACOSX",)  # macOS puts a copy of every attribute there when it packs a zip


def is_hidden(name: str) -> bool:
    """Return whether a file or one of its folders begins with a dot (`._x.jpg`, `.cache/x.jpg`) or belongs to macOS.

    name   relative to the searched folder, whose own path may contain such names
    """
    if "." not in name and "__" not in name:
        return False
    parts = name.replace("\\", "/").split("/")
    return any((part[:1] == "." and part not in (".", "..")) or part in FOLDERS for part in parts)
