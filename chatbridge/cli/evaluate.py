"""Evaluate a trained model on tasks: `chatbridge evaluate --cfg-path eval_configs/x.yaml`.

Under torchrun every rank answers its share of the questions. The same command resumes after a stop: answered questions
are kept as long as the model, the data and the settings are the same.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from chatbridge import __version__
from chatbridge.cli.arguments import run_arguments
from chatbridge.common import dist as ranks
from chatbridge.common.dist import Dist
from chatbridge.common.log import get_logger
from chatbridge.common.one_process import only_process
from chatbridge.common.seeds import seed_everything
from chatbridge.config.merge import save_resolved
from chatbridge.config.schema import plain
from chatbridge.datasets.remote_shards.permissions import commands_of, commands_text, require_permission
from chatbridge.experiment.build import BuiltChat, build_chat, planned_chat, reconciled
from chatbridge.experiment.data import RunData, open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.receipt import code_settings, planned_receipt, receipt_of, with_predictions
from chatbridge.experiment.roots import Evaluation
from chatbridge.experiment.start import start_log
from chatbridge.models.chat_template import template_strings
from chatbridge.models.checkpoints import find_checkpoint, is_run_or_checkpoint
from chatbridge.models.config import ModelConfig
from chatbridge.models.drawing import Artist
from chatbridge.runners.run_folder import RESOLVED
from chatbridge.tasks import Task
from chatbridge.tasks.evaluator import METRICS, Evaluator
from chatbridge.tasks.modality_report.report import may_report
from chatbridge.tasks.partial_answers import state
from chatbridge.tasks.receipt import RECEIPT, Receipt, summary

log = get_logger(__name__)
EPILOG = """writes predictions_<task>.jsonl, scores_<task>.json, metrics.json and receipt.json into run.output_dir; the
same command goes on after a stop; torchrun shares the questions among ranks; then: chatbridge score, compare, report on
that folder. exit code: 0 evaluated; 2 invalid settings, data or checkpoint"""
IN_USE = ".evaluation.in_use"  # in the folder of the results, while an evaluation writes it


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit code."""
    description = "Evaluate a model on the tasks that a YAML file names."
    args = run_arguments(arguments, description, has_gpu_id=True, epilog=EPILOG)
    try:
        with ExitStack() as at_exit:
            return build_and_evaluate(args, at_exit)
    finally:
        ranks.stop()


def build_and_evaluate(args: Namespace, at_exit: ExitStack) -> int:
    """Build the model of a configuration and evaluate it; with --check, print the plan instead.

    at_exit   releases the folder of the results, which no other evaluation may use meanwhile
    """
    opened = open_config(Evaluation, args.cfg_path, args.options)
    data = open_data(opened)  # reports the mistakes of the file and of its data sets together
    config, run = opened.config, opened.config.run
    if args.check:
        print(plan(config, data, args.gpu_id))
        return 0
    require_permission(data.datasets)
    reconciled(config)  # a checkpoint that is refused leaves no run folder
    dist = ranks.start(run.device, args.gpu_id)
    if dist.is_main:
        at_exit.enter_context(only_process(run.output_dir / IN_USE, str(run.output_dir)))
    start_log(run, dist, config.evaluation.num_workers)
    seed_everything(run.seed)
    built = build_chat(config, args.gpu_id, dist, seed=None)
    log.info("\n".join(["weights", *built.weights]))
    for note in built.notes:
        log.warning("%s", note)
    artist, made_with = Artist(built.generator), answers_made_with(config, built.model.config)
    evaluator = Evaluator(
        data.tasks, built.model, built.layout, dist, config.evaluation, artist, made_with, reports_modalities=True
    )
    if dist.is_main:
        settings = opened.with_model(built.model.config).settings  # with those that the checkpoint decided
        save_resolved(settings, run.output_dir / RESOLVED)
    receipt = _begun_receipt(config, built, data, dist)
    evaluator.run(run.output_dir)
    if receipt is not None:
        receipt = with_predictions(receipt, run.output_dir)
        receipt.write(run.output_dir)
        log.info("%s: equal receipts mean equal numbers\n%s", RECEIPT, "\n".join(summary(receipt)))
    log.info("results, in brackets their 95%% intervals: %s", run.output_dir / METRICS)
    return 0


def _begun_receipt(config: Evaluation, built: BuiltChat, data: RunData, dist: Dist) -> Receipt | None:
    """The receipt, written before the answers, so that those of a stopped evaluation have one; None on other ranks."""
    if not dist.is_main:
        return None
    receipt = receipt_of(config, built, data.tasks, dist)
    receipt.write(config.run.output_dir)
    return receipt


def answers_made_with(config: Evaluation, model: ModelConfig) -> dict[str, Any]:
    """Everything that all answers of an evaluation depend on, for `tasks.partial_answers`.

    model   settings of the model as it was built, with those that the checkpoint decided
    """
    start = config.run.init_from
    checkpoint = find_checkpoint(start) if start is not None and is_run_or_checkpoint(start) else start
    return {
        "version of ChatBridge": __version__,
        "code": code_settings(config.plugins),
        "checkpoint": None if checkpoint is None else [str(checkpoint.resolve()), state(checkpoint)],
        "model": plain(model),
        "template": [config.evaluation_template, template_strings(model, config.evaluation_template)],
        "limits of media": plain(config.evaluation.media),
    }


def plan(config: Evaluation, data: RunData, gpu_id: int | None) -> str:
    """Parameters, checkpoint, tasks, receipt and results folder of an evaluation. raises ConfigError as `plan_chat`"""
    planned = planned_chat(config, gpu_id)
    tasks = [_task_line(name, task) for name, task in data.tasks.items()]
    lines = [planned.text, "", "tasks", *tasks, "", f"results go to {config.run.output_dir}"]
    if commands := commands_text(commands_of(data.datasets)):
        return "\n".join([*lines, "", commands])  # which --check does not run, so nothing is read from the data
    receipt = planned_receipt(config, planned.model, data.tasks, planned.layout, ranks.device_of(config.run.device))
    return "\n".join([*lines, "", "receipt", *(f"  {line}" for line in summary(receipt))])


def _task_line(name: str, task: Task) -> str:
    scored = f"scored by {', '.join(task.metrics)}" if task.metrics else "not scored"
    return f"  {name}: {len(task.dataset):,} questions, {scored}{', and a modality report' if may_report(task) else ''}"
