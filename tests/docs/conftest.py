"""Commands of the pages are tried with --check, many of them for 13B: what they cost is predicted elsewhere."""

from __future__ import annotations

import pytest

from chatbridge.cli import train
from chatbridge.experiment.plan import check


@pytest.fixture(autouse=True)
def without_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """--check without predicted operations, memory and hours, as tests/experiment/plan tests them."""
    monkeypatch.setattr(train, "cost_sections", lambda *given: "")
    monkeypatch.setattr(check, "_plan_without_files", lambda *given: "")
