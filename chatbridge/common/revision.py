"""Which code runs: the version of the package, and the git commit where it is a checkout."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from chatbridge import __version__

ROOT = Path(__file__).parents[2]


@lru_cache
def revision() -> dict[str, Any]:
    """version; commit and is_dirty (uncommitted changes of tracked files), both None for an installed package."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    is_ours = (ROOT / ".git").exists()  # not the repository of somebody who installed us into a folder of it
    if not is_ours or commit is None:
        return {"version": __version__, "commit": None, "is_dirty": None}
    return {"version": __version__, "commit": commit, "is_dirty": None if changes is None else bool(changes)}


def revision_text(found: dict[str, Any]) -> str:
    """0.1.0, commit 1a2b3c4d5e6f, with uncommitted changes"""
    commit = f", commit {str(found['commit'])[:12]}" if found.get("commit") else ""
    return f"{found.get('version', '?')}{commit}{', with uncommitted changes' if found.get('is_dirty') else ''}"


def _git(*arguments: str) -> str | None:
    """The output of a git command in the folder of the code; None if it fails or takes long."""
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
