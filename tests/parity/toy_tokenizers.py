"""The toy tokenizers the reference numbers were made with, written from their descriptions. No special tokens."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

SPECIALS = {"<unk>": 0, "<s>": 1, "</s>": 2}


class CrcTokenizer:
    """A prefix id for every segment, then one hashed id per piece (chatbridge_prompt_layout)."""

    bos_id, eos_id, pad_id, vocab_size = 1, 2, 2, 97

    def __init__(self, **numbers: int) -> None:
        vars(self).update(numbers)

    def encode(self, text: str) -> list[int]:
        pieces = re.findall(r"###|\w+|\n|[^\w\s]", text)
        return [3, *(4 + zlib.crc32(piece.encode()) % (self.vocab_size - 4) for piece in pieces)] if text else []

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError("hashes cannot be read back")


class WordTokenizer:
    """`wordpunct-v1`: one id per word or mark, after the special tokens; blanks are dropped (minigpt4_*, multis_*)."""

    bos_id, eos_id = 1, 2

    def __init__(self, words: Sequence[str], specials: Mapping[str, int] = SPECIALS, pad_id: int = 2) -> None:
        self.words, self.specials, self.pad_id = list(words), dict(specials), pad_id
        self.first = max(self.specials.values()) + 1
        self.vocab_size = self.first + len(self.words)

    def encode(self, text: str) -> list[int]:
        marks = sorted(map(re.escape, self.specials), key=len, reverse=True)
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(marks)})", text):
            words = [piece] if piece in self.specials else re.findall(r"\n|\w+|[^\w\s]", piece)
            ids += [self.specials.get(word, self._number(word)) for word in words]
        return ids

    def _number(self, word: str) -> int:
        return self.first + self.words.index(word) if word in self.words else 0

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[number - self.first] for number in ids if number >= self.first)
