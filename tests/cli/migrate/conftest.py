"""The folder of each test is the checkout of its file, so that nothing beside it is read."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_checkout(tmp_path: Path) -> None:
    """Ends the search for the checkout here; the folders of other tests, above, have configs of their own."""
    (tmp_path / "lavis/configs/models").mkdir(parents=True)
    (tmp_path / "lavis/__init__.py").touch()
