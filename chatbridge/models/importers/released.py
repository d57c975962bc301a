"""Load released checkpoints of whole models: `run.init_from: pretrained_minigpt4.pth`, a file instead of a run; of
ChatBind also a folder. Or as `model.weights`, which is read each time the model is built.

The names of the tensors determine the model family. Every tensor is loaded, dropped with a reason, or an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatbridge.conversation.tokenizer import TokenizerLike
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.checkpoint_manifest import MANIFEST
from chatbridge.models.checkpoints import CHECKPOINTS, has_files, is_released_folder, is_step
from chatbridge.models.component import State
from chatbridge.models.fusion.cross_attention import CrossAttention
from chatbridge.models.importers.chatbind import fill_chatbind
from chatbridge.models.importers.chatbind_names import is_chatbind
from chatbridge.models.importers.chatbridge import RELEASED, fill_from_released, unwrapped
from chatbridge.models.importers.flamingo import fill_flamingo
from chatbridge.models.importers.flamingo_names import is_flamingo, unmatched
from chatbridge.models.importers.minigpt4 import fill_projection, is_projection_only
from chatbridge.models.importers.textbind import fill_textbind
from chatbridge.models.importers.textbind_names import is_textbind
from chatbridge.models.start_from_checkpoint import CheckpointReport, start_from_checkpoint
from chatbridge.models.tensor_headers import INDEX, read_tensors
from chatbridge.models.weight_files import PICKLED

SUFFIXES = (*PICKLED, ".safetensors")


@dataclass(frozen=True)
class ReleasedImport:
    """The tensors that a released file gave a model; str() is for the log."""

    path: Path
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"released checkpoint {self.path}", *(f"  {line}" for line in self.lines)])


def start_from(
    model: ChatModel, path: Path | str, tokenizer: TokenizerLike | None = None
) -> CheckpointReport | ReleasedImport:
    """Load `run.init_from`: a file or model folder is a released checkpoint, another folder is a run or checkpoint.

    raises   ValueError when it does not fit the model
    """
    return load_released(model, path) if is_released_file(path) else start_from_checkpoint(model, path, tokenizer)


def is_released_file(path: Path | str) -> bool:
    """Whether a path is a weights file, an index of shards or a model folder; checkpoints of ours are other folders."""
    path = Path(path)
    if path.is_dir():
        return is_released_folder(path)
    return path.suffix in SUFFIXES or path.name.endswith(INDEX)


def load_model_weights(model: ChatModel) -> list[str]:
    """Load `model.weights`, once the parts have their own weights and adapters; lines for the log.

    raises   ValueError when it does not fit the model, or is of a family with one place for all it has
    """
    path = model.config.weights
    if path is None:
        return []
    state = base_tensors(path, read_tensors)
    return [f"model.weights: {line}" for line in fill_flamingo(model, state, path, is_base=True)]


def base_tensors(path: Path, read: Callable[[Path], State]) -> State:
    """The tensors [...] of `model.weights` by released name.

    read     the tensors of a file, with values or without
    raises   ValueError when there is no file of several parts
    """
    if not is_released_file(path):
        raise ValueError(f"{path} {_other_than_weights(path)}")
    _refuse_part_of_checkpoint(path)
    state = read(path)
    if not is_flamingo(state):
        raise ValueError(
            f"{path}: {unmatched(state)}. model.weights is for files of several parts; set the weights of a part "
            "(model.bridges.NAME.weights), or run.init_from for other released models"
        )
    return state


def _refuse_part_of_checkpoint(path: Path) -> None:
    """raises ValueError for the tensors of a checkpoint of ours, which its manifest belongs to"""
    folder = path.parent
    if path.is_file() and is_step(folder) and (folder / MANIFEST).is_file():
        raise ValueError(f"{path} is a part of the checkpoint {folder}; set run.init_from to that folder")


def _other_than_weights(path: Path) -> str:
    """What is at a path that is not a released file, and the next step."""
    if path.is_dir() and (is_step(path) or has_files(path) or (path / CHECKPOINTS).exists()):
        return "is a run or a checkpoint of one; run.init_from takes it"
    what = "is a folder without one" if path.is_dir() else "has another ending"
    return f"{what}; expected a weights file ({', '.join(SUFFIXES)}), an index of shards, or a folder with one of them"


def load_released(model: ChatModel, path: Path | str) -> ReleasedImport:
    """Load a released checkpoint: projection only (MiniGPT-4), trained tensors or all tensors (ChatBridge), projector
    with rows of added tokens or with the whole language model (ChatBind), several parts or adapters (Multimodal-GPT),
    Q-Former with projection and language model (TextBind).

    Optimizer, config, scaler and epoch in the file are not read.
    raises   ValueError when the file is damaged or contains code, the model lacks a tensor, or a component is filled
             incompletely
    """
    path = Path(path)
    _refuse_part_of_checkpoint(path)
    state = read_tensors(path)
    if is_flamingo(state):
        return ReleasedImport(path, tuple(fill_flamingo(model, state, path)))
    if is_chatbind(state):
        return ReleasedImport(path, tuple(fill_chatbind(model, state, path)))
    if is_textbind(state):
        return ReleasedImport(path, tuple(fill_textbind(model, state, path)))
    state, prefix = unwrapped(state)
    if not any(name.startswith(RELEASED) for name in state) and "model.embed_tokens.weight" in state:
        raise ValueError(
            f"{path} is a language model without a projector; set model.language.weights to it, and run.init_from to "
            "the file or folder with the projector"
        )
    if type(model.fusion) is CrossAttention and not any(name.startswith(RELEASED) for name in state):
        raise ValueError(f"{path}: {unmatched(state)}")
    fill_state = fill_projection if is_projection_only(state) else fill_from_released
    lines = fill_state(model, state, path)
    return ReleasedImport(path, (*lines, *([f"prefix {prefix!r} of all names removed"] if prefix else [])))
