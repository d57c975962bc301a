"""Evaluate a trained model on tasks: `chatbridge evaluate --cfg-path eval_configs/x.yaml`.

Under torchrun every rank answers its share of the questions.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from chatbridge.cli.arguments import run_arguments
from chatbridge.common import dist as ranks
from chatbridge.common.log import get_logger
from chatbridge.common.seeds import seed_everything
from chatbridge.config.merge import save_resolved
from chatbridge.datasets.remote_shards.permissions import commands_of, commands_text, require_permission
from chatbridge.experiment.build import Built, build_model, settle_chat
from chatbridge.experiment.data import OpenData, open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Evaluation
from chatbridge.experiment.start import start_log
from chatbridge.runners.run_folder import RESOLVED
from chatbridge.tasks.evaluator import METRICS, Evaluator

log = get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit code."""
    asked = run_arguments(arguments, "Evaluate a model on the tasks that a YAML file names.", has_gpu_id=True)
    try:
        return build_and_evaluate(asked)
    finally:
        ranks.stop()


def build_and_evaluate(asked: Namespace) -> int:
    """Build the model of a configuration and evaluate it; with --check, print the plan instead."""
    opened = open_config(Evaluation, asked.cfg_path, asked.options)
    data = open_data(opened)  # reports the mistakes of the file and of its data sets together
    settled = settle_chat(opened.config)
    opened = opened.with_model(settled.model)
    config, run = opened.config, opened.config.run
    note = ranks.gpu_note(asked.gpu_id, run.device)
    if asked.check:
        print(plan(config, build_model(settled, on_meta=True), data, note))
        return 0
    require_permission(data.datasets)
    dist = ranks.start(run.device, asked.gpu_id)
    start_log(run, dist, config.evaluation.num_workers)
    if note is not None:
        log.info(note)
    seed_everything(run.seed)
    built = build_model(settled)  # trained tensors stay in fp32, as in the evaluations of the training
    log.info("\n".join(["weights", *built.load_weights(dist.device, run.precision)]))
    if run.init_from is not None:
        log.info("%s", built.start_from(run.init_from))
    for line in settled.notes:
        log.warning("%s", line)
    layout = built.layout(config.evaluation_template)
    evaluator = Evaluator(data.tasks, built.model, layout, dist, config.evaluation)
    if dist.is_main:
        save_resolved(opened.settings, run.output_dir / RESOLVED)
    evaluator.run(run.output_dir)
    log.info("results: %s", run.output_dir / METRICS)
    return 0


def plan(config: Evaluation, built: Built, data: OpenData, note: str | None) -> str:
    """Parameters, tasks, checkpoint and results folder of an evaluation. raises ConfigError for a wrong tokenizer"""
    if built.model.language.tokenizer_folder is not None:
        built.layout(config.evaluation_template)
    lines = [f"parameters\n{built.trainable}\n\ntasks"]
    lines += [f"  {name}: {len(task.dataset):,} questions" for name, task in data.tasks.items()]
    lines.append(f"\ntrained tensors from {config.run.init_from or '(none)'}; results go to {config.run.output_dir}")
    lines += [note] if note is not None else []
    commands = commands_text(commands_of(data.datasets))
    return "\n".join([*lines, *(["", commands] if commands else [])])
