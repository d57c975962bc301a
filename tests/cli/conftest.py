"""A run whose model is exported whole, trained once for all tests of such exports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chatbridge.serve.engine import ChatEngine
    from tests.helpers.adapter_runs import AdapterWorld


@pytest.fixture(scope="session")
def export_world(tmp_path_factory: pytest.TempPathFactory) -> AdapterWorld:
    """The miniature world, whose encoders have files."""
    from tests.helpers.adapter_runs import AdapterWorld

    return AdapterWorld(tmp_path_factory.mktemp("export_world"))


@pytest.fixture(scope="session")
def export_run(export_world: AdapterWorld) -> Path:
    """A run that trained the bridge, adapters, and rows of the added tokens <start> and <end>."""
    from tests.helpers.train_runs import run

    config = export_world.lora(export_world.folder / "run", max_steps=2, optimizer={"lr": 0.05})
    config["model"] |= {"added_tokens": ["<start>", "<end>"], "trainable": ["bridges.*", "added_tokens.*"]}
    config["evaluation"] = {"generation": {"max_new_tokens": 7}}
    assert run(config, export_world.folder) == 0
    return export_world.folder / "run"


@pytest.fixture(scope="session")
def export_engine(export_run: Path) -> ChatEngine:
    """The engine of that run."""
    from chatbridge.serve.load import load_model

    return load_model(export_run)
