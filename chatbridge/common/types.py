"""What data hands to models. Datasets and models never import each other: they meet here.

Shape letters, the same everywhere: B conversations, L positions, M media items of one modality in the batch (flat),
T frames or time steps, N feature tokens, K bridge tokens per item, W encoder width, D language width, S supervised
points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

FailureKind = Literal["failed", "crashed", "quarantined", "without sound", "repaired"]


@dataclass(frozen=True)
class Failure:
    """What the failure log keeps about one draw.

    kind    failed: it could not be read; crashed: it took the process that read it along, or hung in it; quarantined: a
            list says that it is broken; without sound: it was used, and its prompt says that the sound is missing;
            repaired: it was used, with U+FFFD for characters that are no text
    drawn   the running number of the draw in its source; -1 when it is not known
    """

    source: str
    id: str
    reason: str
    replaced_by: str | None = None
    kind: FailureKind = "failed"
    drawn: int = -1

    @property
    def counts(self) -> bool:
        """Whether it is against the failure budget."""
        return self.kind in ("failed", "crashed")


@dataclass(frozen=True)
class Sample:
    """One conversation with its media decoded; media[k] belongs to the k-th media part in reading order.

    without_sound  why its prompt says that a sound is missing; None when nothing is
    repaired       why its words are not those of the file; None when they are
    """

    id: str
    source: str
    conversation: tuple[Any, ...]
    media: tuple[Tensor, ...] = ()
    without_sound: str | None = None
    repaired: str | None = None


@dataclass(frozen=True)
class Features:
    """What an encoder says about M items.

    x       float[M, T * N, W]
    mask    bool[M, T * N] or None when every token counts
    frames  T, so that a bridge can tell the frames of one item apart
    """

    x: Tensor
    mask: Tensor | None = None
    frames: int = 1


@dataclass(frozen=True)
class Segments:
    """Which positions of a batch may see each other, where plain causal attention is not the answer.

    Position i sees position j <= i of its row when both belong to the same conversation and j is in the base and before
    the anchor of i's branch, or in i's own branch. A position of the base sees the base alone. The rule becomes a
    mask or a kernel in conversation/attention.py.

    conversation  int64[B, L]  number of the conversation within its row; -1 = padding
    branch        int64[B, L]  0 = base, side texts of a row count from 1
    anchor        int64[B, L]  column of the row before which a branch sees the base; of the base: L
    """

    conversation: Tensor
    branch: Tensor
    anchor: Tensor


@dataclass
class Batch:
    """B rows of ids, one conversation each or several (then `sources` and `sample_ids` are longer than the rows), and
    their media. No shift is hidden anywhere."""

    ids: Tensor  # int64[B, L], pad id behind the end of a row; in media slots too, or the fusion's own id
    positions: Tensor  # int64[B, L], counted from 0 in every conversation; a branch counts on from its anchor
    lengths: Tensor  # int64[B]
    predict_at: Tensor  # int64[S], flat positions b * L + t whose output predicts ...
    target: Tensor  # int64[S], ... these ids
    media: dict[str, Tensor] = field(default_factory=dict)  # modality -> float[M, ...], or uint8 of pictures
    media_slots: dict[str, Tensor] = field(default_factory=dict)  # modality -> int64[M, slots], flat positions
    sources: tuple[str, ...] = ()  # source of each conversation
    sample_ids: tuple[str, ...] = ()  # id of each conversation
    segments: Segments | None = None  # None = one causal conversation per row, the fast path
    source_of_point: Tensor | None = None  # int64[S], index into `sources`; None = the row, when each has one source
    failures: tuple[Failure, ...] = ()  # what the failure log has to know about the draws of this batch
    num_points: tuple[int, ...] = ()  # supervised points of each of `sources`, known without asking the device
    num_cut: int = 0  # rows that were too long and lost turns
    num_empty: int = 0  # answers without words, which are not supervised

    @property
    def num_supervised(self) -> int:
        return int(self.target.numel())

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch with every tensor on `device`."""
        return replace(self, **{f.name: _move(getattr(self, f.name), device, non_blocking) for f in fields(self)})

    def __getstate__(self) -> dict[str, Any]:
        """Small tensors travel between processes as arrays, inside the message: a tensor would take a file descriptor
        and a handshake of its own, together a tenth of the time of a small batch."""
        return {f.name: _light(getattr(self, f.name)) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _restored(value) for name, value in state.items()})

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when it pins batches."""
        return replace(self, **{f.name: _pin(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class LossSum:
    """A loss that is still a sum, so that it can be divided by the count of the whole step.

    total       float[]    summed cross-entropy, nats
    count       supervised points in it
    per_source  source -> (summed loss as a detached float tensor, count)
    """

    total: Tensor
    count: int
    per_source: dict[str, tuple[Tensor, int]] = field(default_factory=dict)


def _move(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, dict):
        return {key: _move(item, device, non_blocking) for key, item in value.items()}
    if isinstance(value, Segments):
        return Segments(*(_move(getattr(value, f.name), device, non_blocking) for f in fields(value)))
    return value


def _pin(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {key: _pin(item) for key, item in value.items()}
    if isinstance(value, Segments):
        return Segments(*(_pin(getattr(value, f.name)) for f in fields(value)))
    return value


LIGHT_BYTES = 1 << 16


def _light(value: Any) -> Any:
    if isinstance(value, Tensor):
        is_light = value.device.type == "cpu" and value.nbytes <= LIGHT_BYTES and value.dtype != torch.bfloat16
        return value.detach().numpy() if is_light else value
    if isinstance(value, dict):
        return {key: _light(item) for key, item in value.items()}
    if isinstance(value, Segments):
        return Segments(*(_light(getattr(value, f.name)) for f in fields(value)))
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, Segments):
        return Segments(*(_restored(getattr(value, f.name)) for f in fields(value)))
    return value
