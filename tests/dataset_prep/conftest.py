"""Fixtures of the preparation scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import stage1_inputs as inputs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with the substitute of img2dataset on the PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(inputs.write_img2dataset(tmp_path / "bin")), prepend=":")
    return tmp_path
