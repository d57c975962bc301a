"""A run whose model is exported whole, trained once for all tests of such exports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chatbridge.serve.engine import ChatEngine
    from tests.helpers.adapter_runs import AdapterWorld
    from tests.helpers.exported_runs import ExportedRun


@pytest.fixture(scope="session")
def export_world(exported_run: ExportedRun) -> AdapterWorld:
    """The miniature world, whose encoders have files."""
    return exported_run.world


@pytest.fixture(scope="session")
def export_run(exported_run: ExportedRun) -> Path:
    """A run that trained the bridge, adapters, and rows of the added tokens <start> and <end>."""
    return exported_run.run


@pytest.fixture(scope="session")
def export_engine(exported_run: ExportedRun) -> ChatEngine:
    """The engine of that run."""
    return exported_run.ours
