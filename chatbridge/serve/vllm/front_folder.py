"""The folder that `chatbridge export --vllm` writes for the machine in front of vLLM, and the model in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from chatbridge.common import dist as ranks
from chatbridge.common.errors import ConfigError, DataError, Problem, reported_at
from chatbridge.common.file_kind import read_json_object
from chatbridge.common.threads import use_threads
from chatbridge.conversation.layout import Layout
from chatbridge.experiment.build import build_model
from chatbridge.experiment.open import chat_from
from chatbridge.experiment.roots import Chat
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language._embedding_alone import put_placeholders, read_embedding
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.loading import copy_state, materialise, mismatches, read_state
from chatbridge.models.placement import place_model
from chatbridge.models.preprocessing_record import preprocessing_changes, preprocessing_of
from chatbridge.runners.config import compute_dtype

FILE, FORMAT = "chatbridge.json", "chatbridge-vllm-1"
FRONT, LANGUAGE_MODEL = "front", "language_model"  # the two folders of an export
LANGUAGE, TOKEN_EMBEDDING = "language", "token_embedding.safetensors"


@dataclass(frozen=True)
class Front:
    """Encoders, bridges and the embedding of the tokens, ready to make prompts.

    dtype    of the language model where it runs, in which prompts are sent
    about    lines for the user: which weights were loaded
    """

    model: ChatModel
    layout: Layout
    config: Chat
    dtype: torch.dtype
    about: tuple[str, ...]


def front_folder(path: Path) -> Path:
    """The folder with chatbridge.json: the path itself, or `front` of an export.

    raises   ConfigError when there is none
    """
    for folder in (path, path / FRONT):
        if (folder / FILE).is_file():
            return folder
    what = f"has no {FILE}" if path.is_dir() else "is a file, not a folder" if path.exists() else "does not exist"
    hint = "write one with: chatbridge export RUN --vllm DIR"
    raise ConfigError([Problem("--checkpoint", f"{path} {what}", hint=hint)])


def is_front(path: Path) -> bool:
    """Whether a path is a folder that `open_front` opens."""
    return (path / FILE).is_file() or (path / FRONT / FILE).is_file()


def front_config(path: Path, options: Sequence[str] = ()) -> Chat:
    """The settings of an exported folder, without reading weights.

    options  settings that replace those of the folder: ["run.device=cpu", "evaluation.generation.top_p=0.9"]
    raises   ConfigError when the folder is not one, or its preprocessing is not that of the training
    """
    folder = front_folder(path)
    content = _content(folder)
    config = chat_from(_settings(folder, content), content.get("plugins", ()), options)
    _check_preprocessing(config, content.get("preprocessing", {}), folder)
    return config


def open_front(path: Path, options: Sequence[str] = (), gpu_id: int | None = None) -> Front:
    """The model of an exported folder, frozen and in evaluation mode; see `front_config`.

    gpu_id   which GPU; None: the first one, if there is one
    raises   ConfigError when the folder is incomplete or damaged, or its preprocessing is not that of the training
    """
    folder, config = front_folder(path), front_config(path, options)
    note = ranks.gpu_note(gpu_id, config.run.device)
    device = ranks.start(config.run.device, gpu_id).device
    use_threads(config.run.threads)
    built = build_model(config.model)
    model, language = built.model, cast("CausalLM", built.model.language)
    dtype = compute_dtype(config.run.precision, device)
    with reported_at(str(folder)):
        lines = list(_filled(model, folder))
        put_placeholders(language, device, dtype)
        place_model(model, device, dtype)
        lines.append(read_embedding(language, folder / LANGUAGE / TOKEN_EMBEDDING, device))
    layout = built.layout(config.evaluation_template)
    sent = language.embed(torch.zeros(1, 1, dtype=torch.long, device=device)).dtype
    model.requires_grad_(False).eval()
    return Front(model, layout, config, sent, (*lines, *([note] if note else [])))


def _content(folder: Path) -> dict[str, Any]:
    """What chatbridge.json has, with the types of its entries checked."""
    try:
        content = read_json_object(folder / FILE)
    except (DataError, OSError) as error:
        raise ConfigError([Problem("--checkpoint", str(error), hint="export the folder again")]) from None
    if content.get("format") != FORMAT:
        message = f"{folder / FILE}: expected format {FORMAT!r}, found {json.dumps(content.get('format'))[:80]}"
        hint = "open it with the version of chatbridge that wrote it, or export the folder again"
        raise ConfigError([Problem("--checkpoint", message, hint=hint)])
    if wrong := [key for key in ("model", "evaluation", "preprocessing") if not isinstance(content.get(key), dict)]:
        message = f"{folder / FILE}: {', '.join(wrong)} is not a mapping"
        raise ConfigError([Problem("--checkpoint", message, hint="export the folder again")])
    return content


def _settings(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping of a Chat, with paths of this machine."""
    model = copy.deepcopy(content["model"])
    parts = [part for kind in ("encoders", "bridges") for part in model.get(kind, {}).values()]
    for part in (*parts, model.get("language", {})):
        if part.get("weights") is not None:
            part["weights"] = str(folder / part["weights"])
    return {"model": model, "evaluation": content["evaluation"]}


def _filled(model: ChatModel, folder: Path) -> Iterator[str]:
    """Copy the tensors of the files into encoders and bridges; a line for each. raises ValueError"""
    parts = {f"{kind}.{name}": part for kind in ("encoders", "bridges") for name, part in getattr(model, kind).items()}
    for name, part in parts.items():
        path = folder / f"{name}.safetensors"
        path = path if path.is_file() else folder / name / "model.safetensors"
        if not path.is_file():
            raise ValueError(f"{name}.safetensors is missing; copy the folder again")
        state = read_state(path)
        if problems := mismatches(part.state_dict(), state):
            raise ValueError("\n".join([f"{path} does not fit {name}:", *problems]))
        copy_state(cast("nn.Module", part), state)
        materialise(part)
        yield f"{name}: {len(state)} tensors from {path}"


def _check_preprocessing(config: Chat, then: Mapping[str, Any], folder: Path) -> None:
    """raises ConfigError when media would be read in another way than in training"""
    found = preprocessing_changes(preprocessing_of(config.model), then) if then else ()
    changes = [f"  encoders.{name}: {key} is {now}, {before} in training" for name, key, now, before in found]
    if changes:
        hint = "a library changed its table; give the encoder these settings with --options"
        raise ConfigError([Problem(str(folder), "\n".join(["preprocessing differs:", *changes]), hint=hint)])


__all__ = [
    "FILE", "FORMAT", "FRONT", "LANGUAGE", "LANGUAGE_MODEL", "TOKEN_EMBEDDING", "Front", "front_config", "front_folder",
    "is_front", "open_front",
]  # fmt: skip
