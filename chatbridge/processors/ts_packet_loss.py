"""Where packets of an MPEG-TS file are missing, by its continuity counters.

FFmpeg marks the frame that misses a packet, but not a frame that is missing as a whole, after which the frames that
refer to it are wrong and not marked. Source: ITU-T H.222.0, 2.4.3.3 (continuity_counter), 2.4.3.5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

_SYNC, _SIZES = 0x47, (188, 192, 204)  # plain, with a time code in front (m2ts), with check bytes after it
_PROBED = 5  # packets that must begin with the sync byte


def lost_positions(ref: str | Path | bytes, pid: int) -> list[int]:
    """Byte positions of the packets of a stream before which others are missing, ascending; [] for other formats."""
    content = np.frombuffer(ref, np.uint8) if isinstance(ref, bytes) else np.memmap(ref, np.uint8, "r")
    layout = _layout(content)
    if layout is None:
        return []
    first, size = layout
    count = (len(content) - first) // size
    packets = content[first : first + count * size].reshape(count, size)[:, :6]
    head = np.array(packets)  # a copy of six bytes each
    has_sync = head[:, 0] == _SYNC
    of_stream = has_sync & (((head[:, 1] & 0x1F).astype(int) << 8 | head[:, 2]) == pid) & (head[:, 3] & 0x10 > 0)
    at = np.flatnonzero(of_stream)
    if len(at) < 2:
        return []
    counter = (head[at, 3] & 0x0F).astype(int)
    steps = np.diff(counter) % 16  # 1 is the next packet, 0 the same one again
    restarts = (head[at, 3] & 0x20 > 0) & (head[at, 4] > 0) & (head[at, 5] & 0x80 > 0)
    is_lost = (steps > 1) & ~restarts[1:]
    return (first + at[1:][is_lost] * size).tolist()


def _layout(content: np.ndarray) -> tuple[int, int] | None:
    """Position of the first packet's sync byte, and bytes per packet; None for other formats."""
    head = bytes(content[: 2048 + _SIZES[-1] * _PROBED])
    for first in range(min(len(head), 2048)):
        if head[first] == _SYNC:
            for size in _SIZES:
                if len(head) > first + size * (_PROBED - 1) and all(
                    head[first + size * number] == _SYNC for number in range(_PROBED)
                ):
                    return first, size
    return None
