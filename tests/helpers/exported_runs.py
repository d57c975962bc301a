"""A run that was exported for vLLM, built once for the tests of the export and of what serves it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chatbridge.cli import export
from chatbridge.serve.load import load_model
from tests.helpers.adapter_runs import AdapterWorld
from tests.helpers.train_runs import run

ADDED = ["<start>", "<end>"]


@dataclass
class ExportedRun:
    """A run that trained the bridge, adapters of the language model and an encoder, and rows of added tokens.

    run   its folder
    out   what `chatbridge export --vllm` wrote
    """

    world: AdapterWorld
    run: Path
    out: Path

    @cached_property
    def ours(self) -> Any:
        """Its engine."""
        return load_model(self.run)


def exported_run(folder: Path) -> ExportedRun:
    """Train for two steps and export."""
    world = AdapterWorld(folder)
    config = world.lora(folder / "run", max_steps=2, optimizer={"lr": 0.05})
    config["model"] |= {"added_tokens": ADDED, "trainable": ["bridges.*", "added_tokens.*"]}
    config["evaluation"] = {"generation": {"max_new_tokens": 7}}
    assert run(config, folder) == 0
    assert export.main([str(folder / "run"), "--vllm", str(folder / "export"), "--shard-bytes", "20000"]) == 0
    return ExportedRun(world, folder / "run", folder / "export")
