"""Fixtures of the tests of remote shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.datasets.remote_shards import download
from tests.helpers.remote_shards import write_shards


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without a pause, and permission for pipe: commands."""
    monkeypatch.setattr(download, "_sleep", lambda seconds: None)
    monkeypatch.setenv("CHATBRIDGE_ALLOW_PIPE", "1")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")
