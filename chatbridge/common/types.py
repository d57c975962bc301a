"""Types that pass from datasets to models, which never import each other.

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
    """An entry of the failure log about one draw.

    kind    failed: it could not be read; crashed: decoding it killed the worker process, or hung; quarantined: the
            quarantine list contains it; without sound: it was used, and its prompt states that the audio is missing;
            repaired: it was used, with U+FFFD in place of invalid characters
    drawn   number of the draw within its source; -1 if unknown
    """

    source: str
    id: str
    reason: str
    replaced_by: str | None = None
    kind: FailureKind = "failed"
    drawn: int = -1

    @property
    def counts(self) -> bool:
        """Whether the failure budget counts it."""
        return self.kind in ("failed", "crashed")


@dataclass(frozen=True)
class Sample:
    """One conversation with its media decoded; media[k] belongs to the k-th media part in reading order.

    without_sound  reason if the prompt states that audio is missing, else None
    repaired       reason if the text differs from that of the file, else None
    """

    id: str
    source: str
    conversation: tuple[Any, ...]
    media: tuple[Tensor | Features, ...] = ()
    without_sound: str | None = None
    repaired: str | None = None


@dataclass(frozen=True)
class Features:
    """The output of an encoder for M items.

    x       float[M, T * N, W], or int8 with a scale
    mask    bool[M, T * N], True for valid tokens; None: all are valid
    frames  T, so that a bridge can separate the frames of an item
    scale   float[M, T * N, 1] by which int8 values of the feature cache are multiplied; None: x has the values
    """

    x: Tensor
    mask: Tensor | None = None
    frames: int = 1
    scale: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def floats(self) -> Tensor:
        """The values: float[M, T * N, W], fp32 where they are stored in int8."""
        return self.x if self.scale is None else self.x.float() * self.scale


@dataclass(frozen=True)
class Segments:
    """Which positions of a batch may attend to each other, if plain causal attention is not sufficient.

    Position i attends to position j <= i of its row if both belong to the same conversation and j is in the base
    before the anchor of i's branch, or in i's own branch. A position of the base attends to the base only. If branches
    are cumulative, a branch also attends to all earlier branches of its conversation.
    conversation/attention.py turns this rule into a mask or a kernel.

    conversation  int64[B, L]  number of the conversation within its row; -1 = padding
    branch        int64[B, L]  0 = base, branches of a row are numbered from 1
    anchor        int64[B, L]  a branch attends to base columns before this one; L for the base itself
    """

    conversation: Tensor
    branch: Tensor
    anchor: Tensor
    cumulative: bool = False


@dataclass
class Batch:
    """B token sequences with their media. A row holds one conversation or several packed ones (then `sources` and
    `sample_ids` are longer than B). predict_at and target are explicit: no shift happens elsewhere."""

    ids: Tensor  # int64[B, L], pad id after the end of a row and in media slots, unless the fusion has a slot token
    positions: Tensor  # int64[B, L], from 0 in every conversation; a branch continues from its anchor
    lengths: Tensor  # int64[B]
    predict_at: Tensor  # int64[S], flat positions b * L + t whose output predicts ...
    target: Tensor  # int64[S], ... these ids
    # modality -> float[M, ...], or uint8 images; Features of M items when they come from the feature cache
    media: dict[str, Tensor | Features] = field(default_factory=dict)
    media_slots: dict[str, Tensor] = field(default_factory=dict)  # modality -> int64[M, slots], flat positions
    # modality -> row of each of the M items, available without a device sync; {} = unknown
    media_rows: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()  # source of each conversation
    sample_ids: tuple[str, ...] = ()  # id of each conversation
    segments: Segments | None = None  # None = one causal conversation per row, the fast path
    source_of_point: Tensor | None = None  # int64[S], index into `sources`; None = the row index
    failures: tuple[Failure, ...] = ()  # failures of the draws of this batch, for the failure log
    num_points: tuple[int, ...] = ()  # supervised points of each of `sources`, available without a device sync
    num_cut: int = 0  # conversations that lost turns because they were too long
    num_empty: int = 0  # empty answers, which are not supervised
    stream: str = ""  # of mix "joint", all of its conversations; "" without streams

    @property
    def num_supervised(self) -> int:
        return int(self.target.numel())

    @property
    def num_conversations(self) -> int:
        """Of all rows; a packed row has several."""
        return len(self.sources) or len(self.ids)

    @property
    def num_positions(self) -> int:
        """B * L, padding included."""
        return self.ids.numel()

    @property
    def num_tokens(self) -> int:
        """Positions without padding, media included. It waits for the device that holds the batch."""
        return int(self.lengths.sum())

    def row(self, number: int) -> Batch:
        """The prompt in one row by itself, without its padding: what is computed of it depends on no other row.

        raises   ValueError for packed rows and side texts
        """
        if self.segments is not None:
            raise ValueError("a row of packed conversations, or with side texts, cannot be taken out of its batch")
        width, length = self.ids.shape[1], int(self.lengths[number])
        own = {name: (slots[:, 0] // width == number).nonzero()[:, 0] for name, slots in self.media_slots.items()}
        own = {name: items for name, items in own.items() if len(items)}
        chosen = slice(number, number + 1)
        return Batch(
            ids=self.ids[chosen, :length],
            positions=self.positions[chosen, :length],
            lengths=self.lengths[chosen],
            predict_at=self.predict_at[:0],
            target=self.target[:0],
            media={name: _items(self.media[name], items) for name, items in own.items()},
            media_slots={name: self.media_slots[name][items] - number * width for name, items in own.items()},
            media_rows={name: (0,) * len(items) for name, items in own.items()},
            sources=self.sources[chosen],
            sample_ids=self.sample_ids[chosen],
            stream=self.stream,
        )

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the batch with every tensor on `device`."""
        return replace(self, **{f.name: _move(getattr(self, f.name), device, non_blocking) for f in fields(self)})

    def __getstate__(self) -> dict[str, Any]:
        """Small tensors are sent between processes as arrays within the message: a tensor needs a file descriptor and a
        handshake of its own, together a tenth of the time of a small batch."""
        return {f.name: _as_array(getattr(self, f.name)) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _restored(value) for name, value in state.items()})

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when it pins batches."""
        return replace(self, **{f.name: _pin(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class LossSum:
    """A summed loss, to be divided by the number of supervised points of the whole step.

    total       float[]    summed cross-entropy, nats
    count       number of supervised points
    per_source  source -> (summed loss as a detached float tensor, count)
    """

    total: Tensor
    count: int
    per_source: dict[str, tuple[Tensor, int]] = field(default_factory=dict)


GROUPED = (Segments, Features)  # values of a batch that hold tensors themselves


def _items(media: Tensor | Features, items: Tensor) -> Tensor | Features:
    """Media items with these numbers, int64[R]."""
    if isinstance(media, Tensor):
        return media[items.to(media.device)]
    mask = None if media.mask is None else media.mask[items]
    return Features(media.x[items], mask, media.frames, None if media.scale is None else media.scale[items])


def _move(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, dict):
        return {key: _move(item, device, non_blocking) for key, item in value.items()}
    if isinstance(value, GROUPED):
        return type(value)(*(_move(getattr(value, f.name), device, non_blocking) for f in fields(value)))
    return value


def _pin(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {key: _pin(item) for key, item in value.items()}
    if isinstance(value, GROUPED):
        return type(value)(*(_pin(getattr(value, f.name)) for f in fields(value)))
    return value


SMALL_BYTES = 1 << 16


def _as_array(value: Any) -> Any:
    if isinstance(value, Tensor):
        is_small = value.device.type == "cpu" and value.nbytes <= SMALL_BYTES and value.dtype != torch.bfloat16
        return value.detach().numpy() if is_small else value
    if isinstance(value, dict):
        return {key: _as_array(item) for key, item in value.items()}
    if isinstance(value, GROUPED):
        return type(value)(*(_as_array(getattr(value, f.name)) for f in fields(value)))
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, GROUPED):
        return type(value)(*(_restored(getattr(value, f.name)) for f in fields(value)))
    return value
