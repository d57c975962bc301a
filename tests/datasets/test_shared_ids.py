"""Token ids in shared memory: always those of the text, whatever is in the memory."""

from __future__ import annotations

import pickle

from chatbridge.datasets.shared_ids import CELL_BYTES, HEAD_BYTES, SharedIds

TEXTS = [f"{number} people walk beside the river, " * (1 + number % 5) for number in range(50)]


class Counted:
    """Tokenizes, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, text: str) -> list[int]:
        self.count += 1
        return [ord(letter) * 1000 for letter in text]


def test_a_text_is_tokenized_once_for_all_processes() -> None:
    """fails when the ids of the memory are not those of the text, or a second process tokenizes again"""
    memory, first, second = memoryview(bytearray(1 << 20)), Counted(), Counted()
    one, other = SharedIds(first, memory), SharedIds(second, memory)
    for text in [*TEXTS, "", "short", "\ud83d half an emoji in it"]:
        assert list(one(text)) == list(other(text)) == Counted()(text)
    assert second.count == 2, "'' and 'short' are tokenized, nothing else"
    spawned = pickle.loads(pickle.dumps(one))
    assert list(spawned(TEXTS[0])) == list(one(TEXTS[0]))


def test_an_overwritten_or_damaged_entry_is_tokenized_again() -> None:
    """fails when entries that overlap, a torn write or the end of the memory give the ids of another text"""
    small, encode = memoryview(bytearray(40 * CELL_BYTES)), Counted()
    shared = SharedIds(encode, small)
    for text in TEXTS * 3:
        assert list(shared(text)) == Counted()(text)
    memory, encode = memoryview(bytearray(1 << 20)), Counted()
    shared = SharedIds(encode, memory)
    shared(TEXTS[0])
    at = next(at for at in range(0, len(memory), CELL_BYTES) if any(memory[at : at + HEAD_BYTES]))
    for place in (at + HEAD_BYTES + 5, at + 20, at + HEAD_BYTES - 4):  # of the ids, the check and the count
        memory[place] ^= 1
        assert list(shared(TEXTS[0])) == Counted()(TEXTS[0])
    assert encode.count == 4
