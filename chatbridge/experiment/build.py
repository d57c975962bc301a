"""What train.py and the evaluation need while they put a run together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.common.environment import hidden_in
from chatbridge.common.errors import ConfigError, Problem, TrainingError, reported_at
from chatbridge.common.log import get_logger
from chatbridge.config.schema import plain
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.datasets.remote_shards.permissions import add_allow_pipe
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.chat_template import template_strings
from chatbridge.models.fingerprints import fingerprint
from chatbridge.models.preprocessing_record import preprocessing_of
from chatbridge.models.start_from_checkpoint import tokenizer_fingerprint
from chatbridge.models.tokenizer_loading import read_tokenizer, slot_ids
from chatbridge.runners.checkpoint import Checkpointer, TrainState
from chatbridge.runners.config import RunConfig
from chatbridge.runners.resume import ResumePoint

log = get_logger(__name__)
GPU_ID_HELP = "which GPU, counted from 0; default: the first one, or the CPU of a machine without a GPU"


def parse_arguments(arguments: Sequence[str] | None, description: str, has_gpu_id: bool = False) -> argparse.Namespace:
    """The command line that training and evaluation share, as LAVIS has it.

    has_gpu_id   also --gpu-id, for a command that usually runs as one process
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg-path", required=True, metavar="X.yaml", help="the configuration")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="settings that replace those of the file"
    )
    parser.add_argument("--check", action="store_true", help="build everything without memory, print the plan, stop")
    add_allow_pipe(parser)
    if has_gpu_id:
        parser.add_argument("--gpu-id", type=int, metavar="N", help=GPU_ID_HELP)
    return parser.parse_args(arguments)


def build_tokenizer(model: ChatModel) -> Tokenizer:
    """The language model's tokenizer. raises ConfigError when it has none, or the model lacks an id that it writes or
    that a fusion puts into media slots"""
    tokenizer = read_tokenizer(model.language, model.config.added_tokens)
    slot_ids(model.slot_tokens(), tokenizer)
    return tokenizer


def build_layout(
    model: ChatModel, tokenizer: Tokenizer, template: str, max_tokens: int | None = None, **strings: Any
) -> Layout:
    """strings: settings of the template other than its own"""
    context_length = model.language.max_positions
    strings = {**template_strings(model.config, template), **strings}
    slots = slot_ids(model.slot_tokens(), tokenizer)
    made = build_template(template, **strings)
    return Layout(made, tokenizer, model.media_lengths(), max_tokens, context_length, slots)


def check_segments(model: ChatModel, layout: Layout) -> None:
    """raises ConfigError when the template writes side texts and the language model cannot keep them apart"""
    has_side_texts = layout.template.writes_side_texts or layout.template.can_draw
    if has_side_texts and (reason := model.language.segments_obstacle(side_texts=True)):
        raise ConfigError([Problem("model.language", reason)])


def about(model: ChatModel, layout: Layout, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a manifest says beside the components: enough to put the same model together again.

    settings   of the model, with references in place of the environment's values; None: those of the model itself
    """
    folder = hidden_in(str(model.language.tokenizer_folder))
    tokenizer = {"folder": folder, "fingerprint": tokenizer_fingerprint(layout.tokenizer)}
    model_settings = plain(model.config) if settings is None else settings
    return {
        "model": model_settings,
        "tokenizer": tokenizer,
        "template": plain_template(layout),
        "preprocessing": preprocessing_of(model.config),
    }


def plain_template(layout: Layout) -> dict[str, Any]:
    template: Any = layout.template
    return {"name": type(template).__module__.rpartition(".")[2], **plain(template.config)}


def check_same_start(model: nn.Module, dist: Dist) -> None:
    """raises TrainingError when a rank holds other weights than the first one"""
    prints = dist.gather(fingerprint(model.state_dict()))
    if others := [rank for rank, one in enumerate(prints) if one != prints[0]]:
        raise TrainingError(f"ranks {others} hold other weights than rank 0; do all machines read the same files?")


def first_state(run: RunConfig, dist: Dist, sizes: Mapping[str, int]) -> TrainState:
    """sizes: source -> samples"""
    batch = global_batch(run, dist.world_size)
    return TrainState(step=0, seed=run.seed, global_batch=batch, sizes=dict(sizes))


def global_batch(run: RunConfig, world_size: int) -> int:
    """Conversations per step over all ranks and micro-batches."""
    return run.micro_batch * run.accumulate * world_size


def go_on(
    checkpointer: Checkpointer, point: ResumePoint, run: RunConfig, dist: Dist, sizes: Mapping[str, int]
) -> TrainState:
    """Load a checkpoint of this run.

    sizes   source -> samples
    raises  ConfigError when it does not fit, or when the order of the data would be another one: other numbers of
            conversations per step, or of samples. A checkpoint that run.resume names by its path may change both.
    """
    checkpoint = point.checkpoint
    for note in point.notes:
        log.warning("%s", note)
    with reported_at("run.resume"):
        state = checkpointer.load(checkpoint)
    now = replace(state, global_batch=global_batch(run, dist.world_size), sizes=dict(sizes))
    problems = [*_other_batch(checkpoint, state, run, dist), *_other_sizes(checkpoint, state, now)]
    if problems and run.resume == "auto":
        raise ConfigError(problems)
    check_same_start(checkpointer.model, dist)
    for problem in problems:
        log.warning("%s; the order of the data changes with it", problem.message)
    log.info("goes on from %s", checkpoint)
    return now


def _other_batch(checkpoint: Path, state: TrainState, run: RunConfig, dist: Dist) -> Iterator[Problem]:
    wanted = global_batch(run, dist.world_size)
    if state.global_batch != wanted:
        message = (
            f"{checkpoint} was written with {state.global_batch} conversations per step; now micro_batch "
            f"{run.micro_batch} x accumulate {run.accumulate} x {dist.world_size} ranks make {wanted}"
        )
        hint = (
            "change run.micro_batch or run.accumulate so that they multiply to the same number, "
            f"or resume with a different data order deliberately: run.resume={checkpoint}"
        )
        yield Problem("run.micro_batch", message, hint=hint)


def _other_sizes(checkpoint: Path, state: TrainState, now: TrainState) -> Iterator[Problem]:
    """Sources whose files changed under the run. Checkpoints of earlier versions do not know."""
    for name, size in now.sizes.items():
        before = state.sizes.get(name, size)
        if before != size:
            message = f"had {before:,} samples when {checkpoint} was written, now it has {size:,}"
            hint = f"restore the files, or resume with a different data order deliberately: run.resume={checkpoint}"
            yield Problem(f"data.sources.{name}", message, hint=hint)
