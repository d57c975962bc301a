"""Drawings that the package has as SVG only, rendered to PNG by an optional wheel without dependencies (resvg-py)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from chatbridge.common.errors import MediaError
from chatbridge.processors.image_file import open_image
from dataset_prep.stamps.altered_pictures import save
from dataset_prep.stamps.pictures import LEFT_OUT

DPI = 96  # of drawings whose size is given in centimetres or points
PACKAGE = "resvg-py"


def render(folder: Path, copies: Path) -> tuple[int, str]:
    """Render the .svg that have a caption and no .png; returns (number of pictures, reason if some are missing).

    Existing copies are kept. A drawing that cannot be rendered is left out and named in the reason.
    """
    wanted = [path for path in sorted(folder.rglob("*.svg")) if _is_wanted(path, folder)]
    missing = [path for path in wanted if not _copy_of(path, folder, copies).exists()]
    if not missing:
        return len(wanted), ""
    try:
        renderer: Any = importlib.import_module("resvg_py")
    except ModuleNotFoundError:
        hint = f"{len(missing)} drawings that exist as SVG only are left out; `pip install {PACKAGE}` renders them"
        return len(wanted) - len(missing), hint
    failed = []
    for path in missing:
        try:
            content = renderer.svg_to_bytes(svg_path=str(path), dpi=DPI, skip_system_fonts=True)
            with open_image(bytes(content)) as opened:
                save(opened.convert("RGBA"), _copy_of(path, folder, copies))
        except (MediaError, ValueError) as error:
            failed.append(f"{path.name}: {error}")
    return len(wanted) - len(failed), "; ".join(failed)


def _is_wanted(path: Path, folder: Path) -> bool:
    key = path.relative_to(folder).as_posix()
    return not key.startswith(LEFT_OUT) and not path.with_suffix(".png").exists() and path.with_suffix(".txt").exists()


def _copy_of(path: Path, folder: Path, copies: Path) -> Path:
    return copies / path.relative_to(folder).with_suffix(".png")
