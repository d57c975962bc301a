"""What `chatbridge generate` and `chatbridge review answers` share: a trained model answers a file of questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.schema import plain
from chatbridge.experiment.build import build_chat
from chatbridge.experiment.open import config_of, open_chat
from chatbridge.experiment.roots import Chat
from chatbridge.models.chat_template import template_strings
from chatbridge.models.checkpoints import find_checkpoint, is_run_or_checkpoint
from chatbridge.models.drawing import Artist
from chatbridge.processors.media_processor import with_limits
from chatbridge.tasks import Prediction, iter_predictions
from chatbridge.tasks.base import FREE
from chatbridge.tasks.drawn_answers import DrawingFolder, Drawings
from chatbridge.tasks.generate import Generate

OF_THE_FILE = ("dataset", "group_by")  # settings of the task that follow from the file of questions
REPORT = {"title": "", "target": None, "answer_parts": []}  # has no effect; files of earlier versions record it


def open_model(path: Path, options: Sequence[str]) -> Chat:
    """The settings of a YAML, a run folder or a checkpoint. raises ConfigError"""
    opened = open_chat(config_of(path), options, path) if path.is_dir() else open_chat(path, options)
    return opened.config


def task_settings(options: Sequence[str], refused: Sequence[str] = OF_THE_FILE) -> dict[str, Any]:
    """The values of `--task KEY=VALUE ...`. raises ConfigError, also for a key that the command does not take"""
    settings: dict[str, Any] = {}
    for option in options:
        key, sign, value = option.partition("=")
        if not sign or key in refused:
            raise ConfigError([Problem("--task", f"expected KEY=VALUE, got {option!r}")])
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError([Problem("--task", f"the value of {option!r} is not readable as YAML")]) from None
    return settings


def answer_settings(config: Chat, task: Generate) -> dict[str, Any]:
    """Everything but the questions that answers depend on: a file never mixes answers of two models or settings."""
    start = config.run.init_from
    checkpoint = find_checkpoint(start) if start is not None and is_run_or_checkpoint(start) else start
    left_out = (*OF_THE_FILE, *FREE)
    generation = {key: value for key, value in plain(task.config).items() if key not in left_out} | {"report": REPORT}
    strings = template_strings(config.model, config.evaluation_template)
    if generation["max_drawings"] is None:
        generation.pop("max_drawings")  # files of earlier versions do not have it
    if not task.config.sample:
        generation.pop("batch_size")  # no answer depends on the other questions of its batch
    return {
        "checkpoint": None if checkpoint is None else str(checkpoint.resolve()),
        "model": plain(config.model),
        "template": {"name": config.evaluation_template, **strings} if strings else config.evaluation_template,
        "generation": generation,
    }


def predictions(
    config: Chat,
    task: Generate,
    indices: Sequence[int],
    num_workers: int,
    gpu_id: int | None = None,
    folder: DrawingFolder | None = None,
    dist: Dist | None = None,
) -> Iterator[Prediction]:
    """Build the model; the answers to these questions, each batch as soon as it is generated, with a progress bar. A
    question that the model fails on has a problem.

    dist     of a command that has set its device and threads already; its first rank alone prints
    folder   of the images that answers draw; None: they have captions only
    """
    from tqdm import tqdm

    built = build_chat(config, gpu_id, dist, has_generator=folder is not None)
    is_main = dist is None or dist.is_main
    if is_main:
        print("\n".join(built.lines), flush=True)
    media, model = config.evaluation.media, built.model
    processors = {name: with_limits(one, media) for name, one in model.processors(train=False).items()}
    artist = Artist(None, "this command draws no images") if folder is None else Artist(built.generator)
    own, drawings = Dist(device=model.device), Drawings(artist, folder or DrawingFolder(None))
    settings: dict[str, Any] = {"num_workers": num_workers, "drawings": drawings, "is_tolerant": True}
    found = iter_predictions(task, model, built.layout, processors, own, indices, **settings)
    return iter(tqdm(found, total=len(indices), unit=" answers", disable=None if is_main else True))
