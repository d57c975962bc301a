"""The receipt of an evaluation, from its configuration, its tasks and the model that was built."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import chatbridge
from chatbridge.common.dist import Dist
from chatbridge.common.revision import revision
from chatbridge.common.source_digest import code_digest, source_digest
from chatbridge.config.constraints import Choice
from chatbridge.config.registry import plugin_folder
from chatbridge.config.schema import plain
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.tokenizer import TokenizerLike
from chatbridge.experiment.build import BuiltChat, plain_template
from chatbridge.experiment.roots import Evaluation
from chatbridge.models.checkpoints import find_checkpoint, is_run_or_checkpoint
from chatbridge.models.config import ModelConfig
from chatbridge.models.feature_cache import file_print
from chatbridge.models.setting_differences import IGNORED
from chatbridge.models.start_from_checkpoint import tokenizer_fingerprint
from chatbridge.models.weights_digest import weights_digest
from chatbridge.processors.description import LIBRARIES, description
from chatbridge.processors.media_processor import with_limits
from chatbridge.runners.config import compute_dtype
from chatbridge.tasks import Task
from chatbridge.tasks.base import FREE
from chatbridge.tasks.prediction_lines import predictions_path
from chatbridge.tasks.receipt import SCORING, Receipt, TaskReceipt, file_sha256
from chatbridge.tasks.receipt_questions import data_files, question_settings

LAYERS = ("common", "config", "conversation", "datasets", "models", "processors", "tasks")  # that answers depend on
METRICS = "tasks/metrics"  # whose code counts as scoring
DECODING = (
    "max_new_tokens", "min_new_tokens", "num_beams", "sample", "temperature", "top_p", "top_k", "seed", "max_drawings",
    "repetition_penalty", "length_penalty",
)  # fmt: skip
# neither answers nor scores depend on these; `dataset` and `prompts` count by the records that they give
OUTSIDE = ("dataset", "prompts", "batch_size")
PIECES = ("pieces", "frames", "clips")  # settings of a data set that its records do not show
# of a model: where its values come from and how they train, and kernels that differ by rounding
ASIDE = ("trainable", *(name for name in IGNORED if name not in ("low_resource", "load_in_8bit", "load_in_4bit")))


def planned_receipt(
    config: Evaluation, model: ModelConfig, tasks: Mapping[str, Task], layout: Layout | None, device: torch.device
) -> Receipt:
    """The receipt without the weights, which are not read: for `--check`.

    model    with the settings that the checkpoint decided
    layout   None where the language model has no tokenizer; its parts are then not known
    """
    shared = {
        "media": _media_settings(config, model),
        "model": _model_settings(model),
        "weights": None,
        "tokenizer": None if layout is None else tokenizer_settings(layout.tokenizer),
        "template": None if layout is None else plain_template(layout),
        "numerics": _numerics(config, device),
        "code": code_settings(config.plugins),
    }
    return Receipt({name: _task_receipt(task, shared) for name, task in tasks.items()})


def receipt_of(config: Evaluation, built: BuiltChat, tasks: Mapping[str, Task], dist: Dist) -> Receipt:
    """The receipt of an evaluation with a model that is loaded; the main rank calls it, before the answers."""
    planned = planned_receipt(config, built.model.config, tasks, built.layout, dist.device)
    weights: dict[str, Any] = weights_digest(built.model)
    if (folder := getattr(getattr(built.model.config.generator, "config", None), "weights", None)) is not None:
        weights["generator"] = file_print(Path(folder))
    found = {name: replace(one, settings={**one.settings, "weights": weights}) for name, one in planned.tasks.items()}
    return Receipt(found, {**environment(dist, tasks), "checkpoint": _checkpoint(config)})


def _checkpoint(config: Evaluation) -> str | None:
    """Where the trained tensors were, for a reader: what they are is in `weights`."""
    start = config.run.init_from
    found = find_checkpoint(start) if start is not None and is_run_or_checkpoint(start) else start
    return None if found is None else str(found)


def with_predictions(receipt: Receipt, folder: Path) -> Receipt:
    """The receipt with the sha256 of each file of predictions in the folder of the evaluation."""
    found = {}
    for name, one in receipt.tasks.items():
        path = predictions_path(folder, name)
        digest = file_sha256(path)
        found[name] = replace(one, predictions=None if digest is None else {"file": path.name, "sha256": digest})
    return Receipt(found, receipt.environment)


def _task_receipt(task: Task, shared: Mapping[str, Any]) -> TaskReceipt:
    settings = plain(task.config)
    data, prompt = question_settings(task)
    pieces = {key: settings["dataset"].get(key) for key in PIECES if settings["dataset"].get(key)}
    is_random = settings["sample"] or "generator" in shared["model"]
    others = (*DECODING, *FREE, *OUTSIDE)
    own = {one.name: getattr(task.config, one.name) for one in fields(task.config) if one.name not in others}
    ordered = {
        "data": data,
        "prompt": prompt,
        "task": {"kind": _kind(task), **without_files(own)},
        "decoding": {key: settings[key] for key in DECODING if key != "seed" or is_random},
        "media": shared["media"] and {**shared["media"], **({"data set": pieces} if pieces else {})},
        **{part: shared[part] for part in ("model", "weights", "tokenizer", "template", "numerics", "code")},
        SCORING: scoring_settings(task),
    }
    return TaskReceipt(ordered, data_files(task))


def scoring_settings(task: Task) -> dict[str, Any]:
    """The part `scoring`: the metrics with their settings and code, the headline, and what intervals draw together."""
    metrics = {
        name: {**without_files(one.config), **_prints(one.config), **plugin_code(type(one))}
        for name, one in task.metrics.items()
    }
    code = source_digest((Path(chatbridge.__file__).parent / METRICS,))[:16]
    own = {"metrics": metrics, "headline": task.main_metric, "resample_by": list(task.config.resampled_together)}
    return {"kind": _kind(task), **own, "code": code}


def rescored(receipt: Receipt, tasks: Mapping[str, Task]) -> Receipt:
    """The receipt of the same answers after these tasks were scored in another way."""
    found = dict(receipt.tasks)
    for name in found.keys() & tasks.keys():
        one = found[name]
        found[name] = replace(one, settings={**one.settings, SCORING: scoring_settings(tasks[name])})
    return Receipt(found, receipt.environment)


def plugin_code(part: type) -> dict[str, str]:
    """{"code": hash} of the file of a part that is not ChatBridge's own; {} for one that is"""
    source = getattr(sys.modules.get(part.__module__), "__file__", None)
    if part.__module__.startswith("chatbridge.") or source is None:
        return {}
    return {"code": code_digest(Path(source).read_bytes())[:16]}


def _prints(config: Any) -> dict[str, str]:
    """setting -> a hash of the file or folder that it names, such as a sentence encoder"""
    paths = {one.name: getattr(config, one.name) for one in fields(config)}
    return {name: file_print(path) for name, path in paths.items() if isinstance(path, Path) and path.exists()}


def _kind(task: Task) -> str:
    return type(task).__module__.rpartition(".")[2]


def _model_settings(model: ModelConfig) -> dict[str, Any]:
    """The part `model`: without what is not set, so that a new setting changes no receipt."""
    return {key: value for key, value in without_files(model).items() if value is not None}


def _media_settings(config: Evaluation, model: ModelConfig) -> dict[str, Any] | None:
    """The part `media`; None where files of the preprocessing are missing, which loading the weights reports."""
    limits = config.evaluation.media
    found: dict[str, Any] = {"missing_sound": limits.missing_sound, "sound_note": limits.sound_note}
    try:
        processors = model.processors(train=False)
    except (ValueError, OSError):
        return None
    for modality, processor in processors.items():
        limited = with_limits(processor, limits)
        counted = getattr(limited, "counted", None)
        found[modality] = {**_described(limited), **({counted: getattr(limited, counted)} if counted else {})}
    return found


def _described(processor: Any) -> dict[str, Any]:
    """Everything that decides the output of a processor; the name of its class alone where a plugin's is opaque."""
    try:
        return description(processor)
    except ValueError as error:
        return {"class": f"{type(processor).__module__}.{type(processor).__qualname__}", "not described": str(error)}


def without_files(value: Any) -> Any:
    """Settings as plain values, without paths and the settings of ASIDE."""
    if isinstance(value, Choice):
        return {"name": value.name, **without_files(value.config)}
    if is_dataclass(value) and not isinstance(value, type):
        own = {one.name: getattr(value, one.name) for one in fields(value) if one.init and one.name not in ASIDE}
        return {name: without_files(one) for name, one in own.items() if not isinstance(one, Path)}
    if isinstance(value, Mapping):
        return {key: without_files(one) for key, one in value.items() if not isinstance(one, Path)}
    return [without_files(one) for one in value] if isinstance(value, (tuple, list)) else value


def tokenizer_settings(tokenizer: TokenizerLike) -> dict[str, Any]:
    """The number of ids, and hashes of the vocabulary and of how a sample text is split."""
    found: dict[str, Any] = {"splits": tokenizer_fingerprint(tokenizer), "added": list(getattr(tokenizer, "added", ()))}
    vocabulary = getattr(getattr(tokenizer, "inner", None), "get_vocab", None)
    if vocabulary is not None:
        entries = sorted(vocabulary().items())
        found |= {"size": len(entries), "vocabulary": hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]}
    return found


def _numerics(config: Evaluation, device: torch.device) -> dict[str, Any]:
    dtype = str(compute_dtype(config.run.precision, device)).removeprefix("torch.")
    return {"device": device.type, "dtype": dtype, "exceptions": dict(config.run.compute_dtype)}


def code_settings(plugins: tuple[str, ...]) -> dict[str, Any]:
    """Hashes of the code of ChatBridge that answers depend on, and of each plugin."""
    package = Path(chatbridge.__file__).parent
    layers = tuple(package / layer for layer in LAYERS)
    found = {"chatbridge": source_digest(layers, without=package / METRICS)[:16]}
    for name in plugins:
        found[name] = source_digest((plugin_folder(name),))[:16]
    return found


def environment(dist: Dist, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Where an evaluation runs: in no hash."""
    device = torch.cuda.get_device_name(dist.device) if dist.device.type == "cuda" else platform.machine()
    return {
        **revision(),
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device,
        "processes": dist.world_size,
        "batch_size": {name: task.config.batch_size for name, task in tasks.items()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in sorted({*LIBRARIES, "tokenizers", "numpy", "timm", "peft"}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
