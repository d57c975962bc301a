"""Weights & Biases: curves over the step of the run, its settings as the config. Nothing else of the machine is sent.

Source: https://docs.wandb.ai/ref/python (wandb.init, Settings, define_metric); wandb 0.31.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.extras import need
from chatbridge.common.log import get_logger
from chatbridge.runners.trackers.background import Point
from chatbridge.runners.trackers.config import WandbConfig

log = get_logger(__name__)
CODES = {"finished": 0, "stopped": 0, "failed": 1}


class WandbSink:
    """A run of Weights & Biases. folder: of our run; offline files go to its wandb/"""

    name = "wandb"

    def __init__(self, config: WandbConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.run: Any = None

    def start(self, run_id: str | None, settings: Mapping[str, Any]) -> str:
        """raises RuntimeError without a key: the library would ask for one in the terminal"""
        if self.config.mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise RuntimeError("WANDB_API_KEY is not set (or use run.trackers.wandb.mode=offline)")
        wandb = need("wandb", "run.trackers.wandb")
        run_id = run_id or uuid.uuid4().hex[:8]
        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, disable_job_creation=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
            init_timeout=30,
        )  # fmt: skip
        self.run = wandb.init(
            project=self.config.project, entity=self.config.entity, name=self.config.name or self.folder.name,
            id=run_id, dir=str(self.folder), mode=self.config.mode, resume="allow", config=dict(settings),
            settings=quiet,
        )  # fmt: skip
        self.run.define_metric("*", step_metric="step")  # a resumed run may go back a few steps
        if self.config.mode == "offline":
            where = Path(self.run.dir).parent
            log.info("wandb: offline, files in %s; `wandb sync %s` uploads them", where, where)
        return run_id

    def send(self, points: Sequence[Point]) -> None:
        for step, _, values in points:
            self.run.log({**values, "step": step})

    def finish(self, outcome: str) -> None:
        self.run.summary["outcome"] = outcome
        self.run.finish(exit_code=CODES.get(outcome, 1))
