"""What `chatbridge train --check` shows about costs: operations, memory and time, also before files are there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.environment import hidden
from chatbridge.common.errors import ConfigError
from chatbridge.conversation.layout import Layout
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.experiment.build import Built
from chatbridge.experiment.opened import Opened
from chatbridge.experiment.plan.planner import Planner
from chatbridge.experiment.plan.report import memory, operations, report, time
from chatbridge.experiment.plan.request import PlanRequest
from chatbridge.experiment.plan.settings import PlannedRun
from chatbridge.runners.config import ranks_planned
from chatbridge.runners.gpus import gpu_of_device

NUM_MEASURED = 128  # conversations of a source; `chatbridge plan` measures more


def this_machine() -> PlanRequest:
    """The ranks of torchrun, and the GPU of this machine."""
    if not torch.cuda.is_available():
        return PlanRequest(ranks=ranks_planned())
    gpu = gpu_of_device(torch.cuda.get_device_name())
    size = torch.cuda.get_device_properties(0).total_memory
    return PlanRequest(None if gpu is None else gpu.name, size, ranks_planned())


def cost_sections(opened: Opened[Any], built: Built, layout: Layout, mixture: Mixture[Any]) -> str:
    """Operations, memory and time of a run whose model (on the meta device) and data are open.

    It needs the parameters of the model no longer: they become fake tensors.
    """
    bits = getattr(opened.config.model.language.config, "bits", None)
    run = PlannedRun(opened, (), (), bits)
    plan = Planner(opened.path, this_machine(), NUM_MEASURED).of_open_run(run, built, layout, mixture)
    return "\n\n".join([operations(plan), memory(plan), time(plan)])


@contextmanager
def plan_before_problems(path: str | Path, options: Sequence[str], is_check: bool) -> Iterator[None]:
    """With --check, a run that cannot start because files are missing is planned first; its problems follow."""
    try:
        yield
    except ConfigError:
        if is_check and os.environ.get("LOCAL_RANK", "0") == "0" and (text := _plan_without_files(path, options)):
            print(f"{hidden(text)}\n", flush=True)
            sys.stdout.flush()
        raise


def _plan_without_files(path: str | Path, options: Sequence[str]) -> str:
    """The plan of a run whose only mistakes are missing files; "" for any other."""
    try:
        plan = Planner(path, this_machine(), NUM_MEASURED).plan(options)
    except (ConfigError, ValueError, OSError):
        return ""
    return report(plan) if plan.absent else ""
