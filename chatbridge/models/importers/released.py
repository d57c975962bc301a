"""The door for released checkpoints of whole models: `run.init_from: pretrained_minigpt4.pth`, a file instead of a run.

Which family a file is of shows in its tensors. Every tensor is consumed, dropped with a reason, or an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chatbridge.conversation.tokenizer import TokenizerLike
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.importers.chatbridge import fill_from_released, unwrapped
from chatbridge.models.importers.minigpt4 import fill_projection, is_projection_only
from chatbridge.models.start_from_checkpoint import CheckpointReport, start_from_checkpoint
from chatbridge.models.weight_files import PICKLED, read_state

SUFFIXES = (*PICKLED, ".safetensors")


@dataclass(frozen=True)
class ReleasedImport:
    """What a released file gave the model; str() is for people."""

    path: Path
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"released checkpoint {self.path}", *(f"  {line}" for line in self.lines)])


def start_from(
    model: ChatModel, path: Path | str, tokenizer: TokenizerLike | None = None
) -> CheckpointReport | ReleasedImport:
    """What `run.init_from` means: a file is a released checkpoint, a folder a run or checkpoint of ours.

    raises   ValueError when it does not fit the model
    """
    return load_released(model, path) if is_released_file(path) else start_from_checkpoint(model, path, tokenizer)


def is_released_file(path: Path | str) -> bool:
    """A file of weights, where our own checkpoints are folders."""
    path = Path(path)
    return path.suffix in SUFFIXES and not path.is_dir()


def load_released(model: ChatModel, path: Path | str) -> ReleasedImport:
    """Fill a ChatModel from a released checkpoint: projection only (MiniGPT-4), trained parts or everything
    (ChatBridge). Optimizer, config, scaler and epoch beside the tensors are not read.

    raises   ValueError naming the file: damaged, code in it, a tensor without a place, a part filled in part only
    """
    path = Path(path)
    state, prefix = unwrapped(read_state(path))
    fill_state = fill_projection if is_projection_only(state) else fill_from_released
    lines = fill_state(model, state, path)
    return ReleasedImport(path, (*lines, *([f"prefix {prefix!r} of all names removed"] if prefix else [])))
