"""The working folder of tests that read YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An empty working folder with configs/."""
    (tmp_path / "configs" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
