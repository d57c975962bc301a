"""Train: `python train.py --cfg-path train_configs/x.yaml [--options key=value ...] [--check]`.

The same under torchrun: `torchrun --nproc-per-node 8 train.py --cfg-path ...`. Everything a run consists of is built
here, once and in order; nothing else constructs.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from chatbridge.common import dist as ranks
from chatbridge.common import log
from chatbridge.common.environment import hidden
from chatbridge.common.errors import reported_at
from chatbridge.common.seeds import seed_everything
from chatbridge.common.threads import use_threads
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.loader import build_loader
from chatbridge.datasets.quarantine import read_quarantine
from chatbridge.datasets.remote_shards.permissions import commands_of, commands_text, require_permission
from chatbridge.experiment import build as launch
from chatbridge.experiment.plan import plan
from chatbridge.experiment.roots import Experiment, open_config
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import trained_tensors
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_weights
from chatbridge.models.manifest_check import reconcile
from chatbridge.models.trainable import set_trainable
from chatbridge.processors.limits import with_limits
from chatbridge.runners.checkpoint import Checkpointer
from chatbridge.runners.optim import Schedule, build_optimizer
from chatbridge.runners.parallel.replicate import ReplicatedGradients
from chatbridge.runners.precision import compute_dtype
from chatbridge.runners.progress import Progress
from chatbridge.runners.resume import resume_point
from chatbridge.runners.run_folder import hold, open_run_folder, plan_start
from chatbridge.runners.runner import Runner
from chatbridge.tasks.evaluator import Evaluator

logger = log.get_logger("train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 130 / 143 after a clean stop on Ctrl-C / SIGTERM."""
    asked = launch.parse_arguments(arguments, "Train a model that a YAML file describes.")
    try:
        return build_and_train(asked)
    finally:
        ranks.stop()


def build_and_train(asked: Namespace) -> int:
    opened = open_config(Experiment, asked.cfg_path, asked.options)
    settled = reconcile(opened.config.model, opened.config.run.init_from, opened.config.run.model_from)
    opened = replace(opened, config=replace(opened.config, model=settled.model))
    config, run = opened.config, opened.config.run
    newest = plan_start(run, opened.settings, opened.completed)
    dist = ranks.start(run.device)
    point = resume_point(newest, run, dist)
    batch = launch.global_batch(run, dist.world_size)
    mixture = build_mixture(
        config.data, opened.sources, run.seed, batch, micro_batch=run.micro_batch, max_steps=run.max_steps
    )
    quarantine = read_quarantine(config.data.quarantine)
    if not asked.check:
        require_permission(opened.datasets)
        _held = hold(run.output_dir) if dist.is_main else None
        log.setup(run.output_dir, dist.is_main, dist.rank)
        threads = use_threads(run.threads, config.data.num_workers)
        logger.info("%d thread%s per operation (run.threads)", threads, "s" * (threads > 1))
    seed_everything(run.seed)
    with torch.device("meta") if asked.check else nullcontext():
        model = ChatModel(config.model)
    report = set_trainable(model, config.model.trainable)
    tokenizer = launch.build_tokenizer(model)
    layout = launch.build_layout(model, tokenizer, config.template, config.data.max_tokens)
    launch.check_segments(model, layout)
    if asked.check:
        if dist.is_main:
            commands = commands_text(commands_of(opened.datasets))
            planned = plan(run, config.model, report, layout, mixture, point)
            print(hidden("\n\n".join(filter(None, [planned, commands]))))
        return 0
    with reported_at("model"):
        weights = load_weights(model, dist.device, compute_dtype(run.precision, dist.device))
    logger.info("\n".join([*settled.notes, "weights", *weights, "parameters", str(report)]))
    launch.check_same_start(model, dist)
    trained = trained_tensors(model)
    processors = {name: with_limits(one, config.data.media) for name, one in model.processors(train=True).items()}
    failure_log = FailureLog(run.output_dir / "failures.jsonl", config.data.failure_budgets)
    loader = partial(
        build_loader,
        mixture,
        layout,
        processors,
        micro_batch=run.micro_batch,
        accumulate=run.accumulate,
        rank=dist.rank,
        world=dist.world_size,
        num_workers=config.data.num_workers,
        seed=run.seed,
        failure_log=failure_log,
        quarantine=quarantine,
        pin_memory=dist.device.type == "cuda",
    )
    optimizer = build_optimizer(trained, run.optimizer)
    schedule = Schedule(run.schedule, run.optimizer.lr, run.max_steps)
    gradients = ReplicatedGradients(trained, dist)
    about = launch.about(model, layout, opened.settings["model"])
    checkpointer = Checkpointer(run.output_dir / "checkpoints", model, optimizer, dist, run.keep, about)
    questions = launch.build_layout(model, tokenizer, config.evaluation_template)
    evaluator = Evaluator(opened.tasks, model, questions, dist, config.evaluation) if opened.tasks else None
    runner = Runner(
        model=model,
        loader=lambda start, stop: loader(start_step=start, stop_step=stop),
        optimizer=optimizer,
        schedule=schedule,
        gradients=gradients,
        checkpointer=checkpointer,
        progress=Progress(run.output_dir, run.last_step, run.log_every, dist),
        evaluator=evaluator,
        dist=dist,
        config=run,
        state=launch.first_state(run, dist, mixture.sizes),
    )
    if point is not None:
        runner.state = launch.go_on(checkpointer, point, run, dist, mixture.sizes)
    elif run.init_from is not None:
        with reported_at("run.init_from"):
            logger.info("%s", start_from(model, run.init_from, tokenizer))
    if dist.is_main:
        open_run_folder(run.output_dir, opened.settings, runner.state.step)
    dist.barrier()  # files of an earlier try are aside before a rank reads or adds to them
    return runner.train()
