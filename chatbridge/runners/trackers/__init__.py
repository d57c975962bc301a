"""Curves of a run in Weights & Biases and MLflow, beside TensorBoard. `run.trackers` names them.

config       their settings; keys come from the environment only
background   sends the values from a thread, so that a tracker never stops or slows a run
wandb_sink, mlflow_sink   one tracker each
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatbridge.runners.trackers.background import Background, Sink
from chatbridge.runners.trackers.config import TrackersConfig


def build_trackers(
    config: TrackersConfig | None, folder: Path, settings: Mapping[str, Any], is_main: bool
) -> list[Background]:
    """The trackers of a run, not yet started; none on the ranks after the first.

    folder    of the run, where their ids are kept: a resumed run continues the same curves
    settings  of the run, with references in place of the environment's values
    """
    sinks: list[Sink] = []
    if config is not None and is_main:
        if config.wandb is not None:
            from chatbridge.runners.trackers.wandb_sink import WandbSink

            sinks.append(WandbSink(config.wandb, folder))
        if config.mlflow is not None:
            from chatbridge.runners.trackers.mlflow_sink import MlflowSink

            sinks.append(MlflowSink(config.mlflow, folder.name))
    return [Background(sink, folder, settings) for sink in sinks]
