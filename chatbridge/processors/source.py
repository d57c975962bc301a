"""What all processors share: references to media, and reasons a person can act on."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from chatbridge.common.errors import MediaError

Ref = str | Path | bytes | Tensor  # path, encoded bytes, or a tensor (see each processor)


class Processor(Protocol):
    """Reads one media item into the input of one encoder.

    rng given = training (random choices allowed), None = evaluation (the same every time).
    raises   MediaError with a reason when the item cannot be read
    """

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor: ...


def name_of(ref: Ref) -> str:
    if isinstance(ref, bytes):
        return f"data of {len(ref)} bytes"
    return f"tensor {list(ref.shape)}" if isinstance(ref, Tensor) else str(ref)


def check_source(ref: str | Path | bytes) -> None:
    """raises MediaError when there is nothing to open"""
    if isinstance(ref, bytes):
        if not ref:
            raise MediaError("the data is empty (0 bytes)")
    elif not Path(ref).exists():
        raise MediaError(f"{ref}: no such file")
    elif Path(ref).is_file() and Path(ref).stat().st_size == 0:
        raise MediaError(f"{ref}: the file is empty (0 bytes)")


def opened(ref: str | Path | bytes) -> str | io.BytesIO:
    """What decoders take: a path or a file in memory."""
    return io.BytesIO(ref) if isinstance(ref, bytes) else str(ref)


@contextmanager
def reasons(ref: Ref, kind: str) -> Iterator[None]:
    """Whatever a decoder throws (they throw everything) becomes a MediaError that names the file and the reason."""
    try:
        yield
    except MediaError as error:
        text = str(error)
        raise (error if name_of(ref) in text else MediaError(f"{name_of(ref)}: {text}")) from error.__cause__
    except MemoryError:
        raise
    except Exception as error:
        raise MediaError(f"{name_of(ref)}: not a readable {kind} ({_said(error)})") from error


def _said(error: Exception) -> str:
    """The decoder's own words, without error numbers, addresses, and the clock and source files of its build."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(re.sub(r"\[[\d:]+\] \S+: | '?<_io\.BytesIO[^>]*>'?", "", words).split())[:200]
