"""Train: `chatbridge train --cfg-path train_configs/x.yaml [--options key=value ...] [--check]`.

On several GPUs: `torchrun --nproc-per-node 8 train.py --cfg-path ...`. `build_and_train` builds everything a run
consists of, in order.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack

from chatbridge.cli.arguments import run_arguments
from chatbridge.common import dist as ranks
from chatbridge.common.dist import Dist
from chatbridge.common.environment import hidden
from chatbridge.common.log import get_logger
from chatbridge.common.seeds import seed_everything
from chatbridge.conversation.layout import Layout
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.quarantine import read_quarantine
from chatbridge.datasets.remote_shards.permissions import commands_of, commands_text, require_permission
from chatbridge.experiment.build import (
    Built,
    build_model,
    check_segments,
    has_side_texts,
    manifest_settings,
    prepare_packing,
)
from chatbridge.experiment.data import RunData, open_data, run_loader, run_mixture, run_validator, with_steps
from chatbridge.experiment.feature_cache.cached_processors import cached_processors, feature_note
from chatbridge.experiment.memory_advice import advice_of
from chatbridge.experiment.open import open_config
from chatbridge.experiment.opened import Opened
from chatbridge.experiment.plan import plan
from chatbridge.experiment.plan.check import cost_sections, plan_before_problems
from chatbridge.experiment.roots import Experiment
from chatbridge.experiment.start import (
    check_same_start,
    first_state,
    open_run,
    random_note,
    report_earlier_end,
    resumed_state,
    start_log,
)
from chatbridge.experiment.training_tasks import evaluation_note, with_best_mode
from chatbridge.experiment.validate_levers import check_devices
from chatbridge.experiment.validate_shard import check_ranks, check_units, ranks_note
from chatbridge.models.compilation import compile_components
from chatbridge.models.manifest_check import reconcile
from chatbridge.models.memory import checkpoint_activations
from chatbridge.models.trainable import TrainableReport
from chatbridge.processors.media_processor import with_limits
from chatbridge.runners.checkpoint import Checkpointer
from chatbridge.runners.config import ranks_planned
from chatbridge.runners.next_steps import next_steps
from chatbridge.runners.optim import Schedule, build_optimizer
from chatbridge.runners.optimizer_groups import lr_scales
from chatbridge.runners.out_of_memory import OutOfMemory
from chatbridge.runners.parallel import place
from chatbridge.runners.peak_rate import batch_flops, peak_rate
from chatbridge.runners.profiler import Profiler
from chatbridge.runners.progress import Progress
from chatbridge.runners.resume import ResumePoint, resume_point
from chatbridge.runners.run_card import RunCard
from chatbridge.runners.run_folder import lock_run_folder, plan_start
from chatbridge.runners.runner import Runner
from chatbridge.runners.trackers import build_trackers
from chatbridge.runners.watchdog import Watchdog
from chatbridge.tasks.evaluator import Evaluator

log = get_logger("train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 130 / 143 after a clean stop on Ctrl-C / SIGTERM."""
    args = run_arguments(arguments, "Train a model that a YAML file describes.")
    with ExitStack() as at_exit:
        at_exit.callback(ranks.stop)
        at_exit.enter_context(plan_before_problems(args.cfg_path, args.options, args.check))
        return build_and_train(args, at_exit)


def build_and_train(args: Namespace, at_exit: ExitStack) -> int:
    """Build the run of a configuration and train it; with --check, print its plan instead. Returns the exit code."""
    opened = open_config(Experiment, args.cfg_path, args.options)
    data = open_data(opened)  # reports the mistakes of the file and of its data sets together
    opened = with_steps(opened, data.sources, ranks_planned())
    opened = with_best_mode(opened)
    settled = reconcile(opened.config.model, opened.config.run.init_from, opened.config.run.model_from)
    opened = opened.with_model(settled.model)
    config, run = opened.config, opened.config.run
    newest = plan_start(run, opened.settings, opened.completed)
    dist = ranks.start(run.device)
    point = resume_point(newest, run, dist)
    mixture = run_mixture(config.data, run, data.sources, dist.world_size)
    quarantine = read_quarantine(config.data.quarantine)
    if not args.check:
        enter(opened, data, dist, at_exit)

    seed_everything(run.seed)
    built = build_model(config.model, args.check, run.optimizer.groups)
    scales = lr_scales(run.optimizer.groups, built.trainable.names, run.optimizer.lr)
    model, trainable = built.model, built.trainable.with_lr_scales(scales)
    layout = built.layout(config.template, config.data.max_tokens)
    side_texts = has_side_texts(layout, data.sources.values())
    check_segments(model, side_texts)
    check_units(model, run)
    prepare_packing(model, side_texts, config.data.batching)
    if args.check:
        if dist.is_main:
            print(plan_text(opened, data, built, mixture, layout, trainable, point))
        return 0
    weights = built.load_weights(dist.device, run.precision, run.parallel == "shard", run.compute_dtype)
    log.info("%s", start_text(settled.notes, weights, random_note(model, run.init_from), trainable))
    trackers = build_trackers(run.trackers, run.output_dir, opened.settings, dist.is_main)
    rate = peak_rate(dist.device, model.compute_dtype)
    streams = config.data.stream_of
    progress = Progress(run.output_dir, run.last_step, run.log_every, dist, batch_flops(model), rate, trackers, streams)
    compiled = compile_components(model, run.compile)
    for line in compiled + checkpoint_activations(model, run.activation_checkpointing):
        log.info("%s", line)
    parallel = place(model, run, dist)
    check_same_start(model, dist)
    model.loss_chunk_mb = run.loss_chunk_mb

    processors = {name: with_limits(one, config.data.media) for name, one in model.processors(train=True).items()}
    failures = FailureLog(run.output_dir / "failures.jsonl", config.data.failure_budgets)
    loader = run_loader(config.data, run, dist, mixture, layout, processors, failures, quarantine)
    optimizer = build_optimizer(parallel.parameters, run.optimizer)
    schedule = Schedule(run.schedule, run.optimizer.lr, run.max_steps)
    manifest = manifest_settings(built, layout, opened.settings["model"])
    checkpointer = Checkpointer(run.output_dir / "checkpoints", model, optimizer, dist, run.keep, manifest, parallel)
    validator = run_validator(config.data, run, dist, mixture, layout, model)
    questions = built.layout(config.evaluation_template)
    evaluator = Evaluator(data.tasks, model, questions, dist, config.evaluation) if data.tasks else None
    card = RunCard(run, opened.settings, mixture, dist)
    profilers = [Profiler(run.profile, model, run.output_dir, dist)] if run.profile is not None else []
    watchdog = Watchdog(dist, run.output_dir, run.stall_timeout_s, run.on_stall)
    memory = OutOfMemory(model, optimizer, dist, advice_of(args.cfg_path, args.options, config, dist))
    runner = Runner(
        model=model, loader=loader, optimizer=optimizer, schedule=schedule, parallel=parallel,
        checkpointer=checkpointer, progress=progress, validator=validator, evaluator=evaluator, dist=dist,
        watchers=[watchdog, card, memory, *profilers], config=run, state=first_state(run, dist, mixture.sizes),
        streams=config.data.stream_weights,
    )  # fmt: skip
    if point is not None:
        runner.state = resumed_state(checkpointer, point, run, dist, mixture.sizes)
    elif run.init_from is not None:
        log.info("%s", built.start_from(run.init_from))
    processors |= cached_processors(config, model, data.sources, quarantine, dist)  # now that all weights are final
    if dist.is_main:
        open_run(run, opened, point, runner.state.step)
    dist.barrier()  # the files of an earlier try are moved aside before a rank reads or appends to them
    with card.kept(progress, runner.state.step):
        code = runner.train()
    is_early = runner.scores.is_over and runner.state.step < run.max_steps
    log.info("%s", next_steps(run, progress.outcome, runner.state.step, is_early))
    return code


def enter(opened: Opened[Experiment], data: RunData, dist: Dist, at_exit: ExitStack) -> None:
    """Check what only a start needs, and take the run folder: its lock until this process ends, and its log."""
    config, run = opened.config, opened.config.run
    require_permission(data.datasets)
    check_devices(config.model, run, dist.device)
    check_ranks(run)
    if dist.is_main:
        at_exit.callback(lock_run_folder(run.output_dir).release)
    start_log(run, dist, config.data.num_workers)
    if dist.is_main:
        report_earlier_end(run)


def plan_text(
    opened: Opened[Experiment],
    data: RunData,
    built: Built,
    mixture: Mixture[Dataset],
    layout: Layout,
    trainable: TrainableReport,
    point: ResumePoint | None,
) -> str:
    """What `--check` prints: the plan of the run, what it costs, and what there is to know before it starts."""
    config, run = opened.config, opened.config.run
    costs = cost_sections(opened, built, layout, mixture)
    commands = commands_text(commands_of(data.datasets))
    evaluated = evaluation_note(run, config.evaluation, data.tasks)
    notes = [evaluated, ranks_note(run), feature_note(config), random_note(built.model, run.init_from), commands]
    return hidden("\n\n".join(filter(None, [plan(config, trainable, layout, mixture, point), costs, *notes])))


def start_text(notes: Sequence[str], weights: Sequence[str], random: str, trainable: TrainableReport) -> str:
    """What the log says of the model: settings of its checkpoint, weights that were read, and what is trained."""
    return "\n".join(filter(None, [*notes, "weights", *weights, random, "parameters", str(trainable)]))
