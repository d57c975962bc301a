"""`python -m chatbridge evaluate --cfg-path eval_configs/x.yaml`: one trained model, its tasks, their results."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace

import torch

from chatbridge.common import dist as ranks
from chatbridge.common import log
from chatbridge.common.errors import reported_at
from chatbridge.common.seeds import seed_everything
from chatbridge.common.threads import use_threads
from chatbridge.config.merge import save_resolved
from chatbridge.datasets.remote_shards.permissions import commands_of, commands_text, require_permission
from chatbridge.experiment import build as launch
from chatbridge.experiment.roots import Evaluation, open_config
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_weights
from chatbridge.models.manifest_check import reconcile
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.precision import compute_dtype
from chatbridge.runners.run_folder import RESOLVED
from chatbridge.tasks.evaluator import METRICS, Evaluator

logger = log.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Also under torchrun: every rank answers its share of the questions."""
    asked = launch.parse_arguments(arguments, "Evaluate a model on the tasks that a YAML file names.", has_gpu_id=True)
    try:
        return build_and_evaluate(asked)
    finally:
        ranks.stop()


def build_and_evaluate(asked: Namespace) -> int:
    opened = open_config(Evaluation, asked.cfg_path, asked.options)
    config, run = opened.config, opened.config.run
    settled = reconcile(config.model, run.init_from, run.model_from, config.evaluation_template)
    config = replace(config, model=settled.model)
    opened = replace(opened, config=config)
    note = ranks.gpu_note(asked.gpu_id, run.device)
    if asked.check:
        code = _show(config, {name: len(task.dataset) for name, task in opened.tasks.items()}, note)
        if commands := commands_text(commands_of(opened.datasets)):
            print(f"\n{commands}")
        return code
    require_permission(opened.datasets)
    dist = ranks.start(run.device, asked.gpu_id)
    log.setup(run.output_dir, dist.is_main, dist.rank)
    if note is not None:
        logger.info(note)
    threads = use_threads(run.threads, config.evaluation.num_workers)
    logger.info("%d thread%s per operation (run.threads)", threads, "s" * (threads > 1))
    seed_everything(run.seed)
    model = ChatModel(config.model)
    set_trainable(model, config.model.trainable)  # what trained stays in fp32, as it was asked during training
    with reported_at("model"):
        weights = load_weights(model, dist.device, compute_dtype(run.precision, dist.device))
    logger.info("\n".join(["weights", *weights]))
    tokenizer = launch.build_tokenizer(model)
    if run.init_from is not None:
        with reported_at("run.init_from"):
            logger.info("%s", start_from(model, run.init_from, tokenizer))
    for line in settled.notes:
        logger.warning("%s", line)
    strings = dict(settled.template or {"name": config.evaluation_template})
    layout = launch.build_layout(model, tokenizer, strings.pop("name"), **strings)
    evaluator = Evaluator(opened.tasks, model, layout, dist, config.evaluation)
    if dist.is_main:
        save_resolved(opened.settings, run.output_dir / RESOLVED)
    evaluator.run(run.output_dir)
    logger.info("results: %s", run.output_dir / METRICS)
    return 0


def _show(config: Evaluation, sizes: dict[str, int], note: str | None) -> int:
    """The plan of an evaluation; the model is built without memory."""
    with torch.device("meta"):
        model = ChatModel(config.model)
    if model.language.tokenizer_folder is not None:
        launch.build_tokenizer(model)
    print(f"parameters\n{set_trainable(model, config.model.trainable)}\n\ntasks")
    for name, size in sizes.items():
        print(f"  {name}: {size:,} questions")
    print(f"\ntrained tensors from {config.run.init_from or '(none)'}; results go to {config.run.output_dir}")
    if note is not None:
        print(note)
    return 0
