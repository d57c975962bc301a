"""Two optimizer steps of a small Multimodal-GPT on both of its streams, by the training loop and its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chatbridge.common.dist import Dist
from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.models.importers.flamingo_names import parts_of
from chatbridge.runners.checkpoint import Checkpointer, TrainState
from chatbridge.runners.config import RunConfig
from chatbridge.runners.optim import Schedule, build_optimizer
from chatbridge.runners.parallel.replicate import Replicated
from chatbridge.runners.progress import Progress, StepResult
from chatbridge.runners.runner import Runner
from tests.parity.flamingo_model import base_of, batch_of, filled_model
from tests.parity.golden import Check, Golden, read_golden

STREAMS = {"visual": ("visual", "visual_rows"), "language": ("lang", "language_rows")}
LOSSES = {"visual": "loss_vision", "language": "loss_lang"}  # of the last micro-batch of a step, over its micro-batches
ADAPTERS = "flamingo_lora"


def train_step(check: Check) -> None:
    """The adapters after both steps, the losses and the learning rates in between."""
    golden, base = check.golden, base_of(check.golden)
    assert golden.folder is not None
    with filled_model(base, read_golden(golden.folder / f"{ADAPTERS}.json")) as model, TemporaryDirectory() as folder:
        runner = _runner(model.train(), golden, Path(folder))
        logs = golden.about["logs"]
        for step in range(len(logs) // 2):
            result = runner.train_step(step, _micro_batches(golden, base, step))
            _compare_losses(check, result, logs[2 * step + 1])
            check.rate(f"learning rate after step {step + 1}", runner.schedule(step + 1), logs[2 * step]["lr"])
    own = trainable_parameters(model)
    state = parts_of({name.removeprefix("after."): value for name, value in golden.outputs.items()})
    check.equal("names of what trains", sorted(own), sorted(state.adapters))
    ours_of = {id(value): name for name, value in state.adapters.items()}
    for name, value in golden.outputs.items():
        check.close(name, own[ours_of[id(value)]])


def _compare_losses(check: Check, result: StepResult, logged: dict[str, float]) -> None:
    """The last micro-batch of each stream, as the reference logs it: its mean, divided by the micro-batches."""
    accumulate = len(result.batches) // len(STREAMS)
    for batch, loss in list(zip(result.batches, result.losses, strict=True))[-len(STREAMS) :]:
        mean = float(loss.total) / loss.count / accumulate
        check.rate(f"step {result.step}, loss of {batch.stream}", mean, logged[LOSSES[batch.stream]], relative=1e-5)


def _runner(model: ChatModel, golden: Golden, folder: Path) -> Runner:
    """The loop with the published settings: see `loss_mean`, `clip_every`, the decay by name and the schedule."""
    config = _settings(golden, folder)
    parameters, dist = trainable_parameters(model), Dist()
    optimizer = build_optimizer(parameters, config.optimizer)
    return Runner(
        model=model,
        loader=lambda start, stop: iter(()),  # pyright: ignore[reportArgumentType]
        optimizer=optimizer,
        schedule=Schedule(config.schedule, config.optimizer.lr, config.max_steps),
        parallel=Replicated(parameters, dist),
        checkpointer=Checkpointer(folder / "checkpoints", model, optimizer, dist, config.keep, {}),
        progress=Progress(folder, config.last_step, config.log_every, dist),
        evaluator=None,
        dist=dist,
        config=config,
        state=TrainState(step=0, seed=config.seed, global_batch=4),
        streams=dict.fromkeys(STREAMS, 1.0),
    )


def _settings(golden: Golden, folder: Path) -> RunConfig:
    about: dict[str, Any] = golden.config
    decayed = {"match": ["fusion.layers.*"], "weight_decay": about["weight_decay"]}
    optimizer = {"lr": about["lr"], "betas": about["betas"], "eps": about["eps"], "weight_decay": 0.0,
                 "groups": [decayed]}  # fmt: skip
    return parse(RunConfig, {
        "output_dir": str(folder), "max_steps": 10, "micro_batch": 1,
        "accumulate": about["gradient_accumulation_steps"], "optimizer": optimizer,
        "schedule": {"kind": "cosine", "warmup_steps": 1, "warmup_lr": 0.0},
        "clip_norm": 1.0, "clip_every": "micro", "loss_mean": "micro_batch",
    })  # fmt: skip


def _micro_batches(golden: Golden, base: Golden, step: int) -> list[Batch]:
    """One row each, of both streams in turn."""
    accumulate = golden.config["gradient_accumulation_steps"]
    return [
        replace(batch_of(base, name, [golden.config[rows][number]]), stream=stream)
        for number in range(step * accumulate, (step + 1) * accumulate)
        for stream, (name, rows) in STREAMS.items()
    ]
