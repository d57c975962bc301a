"""The two toy tokenizers the goldens were made with, written from their descriptions. No special tokens, "" -> []."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.parity.toy_tokenizers import CrcTokenizer

__all__ = ["CrcTokenizer", "WordTokenizer"]


class WordTokenizer:
    """Golden multis_chatbridge: one id per word or punctuation mark, 3 + its place in the list; blanks are dropped."""

    bos_id, eos_id, pad_id = 1, 2, 2

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self.vocab_size = 3 + len(self.words)

    def encode(self, text: str) -> list[int]:
        return [3 + self.words.index(word) for word in re.findall(r"\w+|\n|[^\w\s]", text)]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[number - 3] for number in ids if number > 2)
