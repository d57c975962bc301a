"""A small review in files, for every test of a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.review_files import ReviewWorld


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReviewWorld:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return ReviewWorld(tmp_path)
