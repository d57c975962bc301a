"""Run under torchrun: the peak of a step of full tuning with run.parallel shard, on the first rank, as JSON."""

import json
import sys
from pathlib import Path

import torch

from chatbridge.common import dist
from chatbridge.models.placement import place_model
from chatbridge.runners.config import RunConfig
from chatbridge.runners.optim import OptimizerConfig, build_optimizer
from chatbridge.runners.parallel import place
from chatbridge.runners.planned_step.measure import measured
from tests.experiment.plan.test_memory import SHARDED
from tests.helpers.planned_parts import small_config, small_model

ranks = dist.start("cpu")
model = small_model(small_config(*SHARDED.trainable), on_meta=False)
place_model(model, "cpu", SHARDED.dtype)
parallel = place(model, RunConfig(output_dir=Path("x"), max_steps=1, parallel="shard"), ranks)
optimizer = build_optimizer(parallel.parameters, OptimizerConfig())
found = measured(model, SHARDED.shape, parallel, optimizer, repeats=0)
torch.distributed.barrier()
dist.stop()
if ranks.is_main:
    Path(sys.argv[1]).write_text(json.dumps({"peak": found.peak, "parts": dict(found.parts)}))
