"""The configuration files that ship with ChatBridge: a YAML may name its bases and lists of prompts from any folder."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SHIPPED = (PACKAGE.parent / "configs", PACKAGE / "configs")  # in a checkout; in an installed wheel


def found(path: Path) -> Path:
    """The path itself, or the shipped file for `configs/...` that does not exist in the working folder."""
    if path.parts[:1] != ("configs",) or path.exists():
        return path
    shipped = (root.joinpath(*path.parts[1:]) for root in SHIPPED)
    return next((one for one in shipped if one.exists()), path)
