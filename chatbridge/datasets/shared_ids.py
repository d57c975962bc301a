"""Token ids of texts in memory that the loader's workers of all ranks of a machine share.

The rank that measures a conversation for grouped batches is seldom the one that reads it: without this, most texts are
tokenized twice. Ids are a pure function of their text, so an entry that is missing, overwritten or half written changes
the cost, never a result: an entry has the digest of its text and one of its ids, and both are compared on a copy.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

IDS_BYTES = 1 << 23  # of the memory: about 60,000 captions; a later entry overwrites one that is long past
CELL_BYTES = 64  # entries begin at multiples of it
DIGEST_BYTES, CHECK_BYTES, COUNT_BYTES = 16, 8, 4
HEAD_BYTES = DIGEST_BYTES + CHECK_BYTES + COUNT_BYTES
SHORTEST = 16  # characters; tokenizing less is as fast as a look-up


class SharedIds:
    """Text -> its ids, from the memory or tokenized. A process that was started otherwise than by a fork tokenizes.

    encode   text -> ids; the same tokenizer in every process that has the memory
    memory   bytes, IDS_BYTES of them
    """

    def __init__(self, encode: Callable[[str], Sequence[int]], memory: memoryview | None):
        self._encode, self._memory = encode, memory

    def __call__(self, text: str) -> Sequence[int]:
        memory = self._memory
        if memory is None or len(text) < SHORTEST:
            return self._encode(text)
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        at = int.from_bytes(digest[:8], "little") % (len(memory) // CELL_BYTES) * CELL_BYTES
        found = _read(memory, at, digest)
        if found is None:
            found = self._encode(text)
            _write(memory, at, digest, found)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"_encode": self._encode, "_memory": None}


def _read(memory: memoryview, at: int, digest: bytes) -> Sequence[int] | None:
    head = bytes(memory[at : at + HEAD_BYTES])
    if head[:DIGEST_BYTES] != digest:
        return None
    size = 4 * int.from_bytes(head[-COUNT_BYTES:], "little")
    body = bytes(memory[at + HEAD_BYTES : at + HEAD_BYTES + size])
    if _check(digest, body) != head[DIGEST_BYTES:-COUNT_BYTES]:
        return None
    return array("I", body)


def _write(memory: memoryview, at: int, digest: bytes, ids: Sequence[int]) -> None:
    body = array("I", ids).tobytes()
    end = at + HEAD_BYTES + len(body)
    if end <= len(memory):
        memory[at:end] = digest + _check(digest, body) + len(ids).to_bytes(COUNT_BYTES, "little") + body


def _check(digest: bytes, body: bytes) -> bytes:
    return blake2b(body, digest_size=CHECK_BYTES, key=digest).digest()
