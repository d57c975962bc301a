"""Runs of a miniature world with adapters, whose encoders have files: a checkpoint works by itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from chatbridge.models.loading import save_component
from tests.helpers.mini_world import MiniWorld
from tests.helpers.tiny_models import tiny_model

LORA = [{"targets": ["language.*q_proj", "language.*v_proj"], "rank": 2, "alpha": 8.0, "dropout": 0.1},
        {"targets": ["encoders.vision.*attn*"], "rank": 3}]  # fmt: skip


class AdapterWorld(MiniWorld):
    """The miniature world with files for its encoders."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name, part in tiny_model().encoders.items():
            save_component(part, folder / f"{name}.safetensors")

    def model(self, dropout: float = 0.0) -> dict[str, Any]:
        """The `model:` node of MiniWorld, with these files."""
        mapping = super().model(dropout)
        for name, part in mapping["encoders"].items():
            mapping["encoders"][name] = {**part, "weights": str(self.folder / f"{name}.safetensors")}
        return mapping

    def lora(self, output: Path, adapters: list[dict[str, Any]] | None = None, **run: Any) -> dict[str, Any]:
        """A training run with adapters; keyword arguments replace settings of `run`."""
        config = self.experiment(output, **run)
        config["model"]["adapters"] = copy.deepcopy(LORA if adapters is None else adapters)
        return config
