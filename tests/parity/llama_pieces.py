"""A tokenizer with the pieces of the public Llama vocabulary that TextBind's token table consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PIECES = {
    "▁": 29871, "\n": 13, "▁[": 518, "INST": 25580, "]": 29962, "[": 29961, "/": 29914, "▁<<": 3532, "SY": 14816,
    "S": 29903, ">>": 6778, "<": 29966, "</": 829, "Be": 3629, "▁Be": 1522, "▁brief": 11473, ".": 29889, "▁.": 869,
    "Hi": 18567, "▁What": 1724, "▁is": 338, "▁this": 445, "?": 29973, "▁doing": 2599, "▁A": 319, "▁cat": 6635,
    "▁Done": 25679, "▁It": 739, "▁red": 2654, "▁Here": 2266, ":": 29901, "▁a": 263, "▁small": 2319, "▁grey": 18345,
    "▁on": 373, "▁so": 577, "fa": 5444, "▁Line": 7407, "▁one": 697, "line": 1220, "▁two": 1023,
}  # fmt: skip


class LlamaPieces:
    """Pieces of the public Llama vocabulary that the golden's strings consist of, the longest one first.

    It reads a text as the slow tokenizer does: a blank before it, and blanks as "▁".
    """

    bos_id, eos_id, pad_id = 1, 2, 0

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.added = facts["textbind_added"]

    def token_id(self, token: str) -> int | None:
        return self.added.get(token)

    def encode(self, text: str) -> list[int]:
        left, ids = "▁" + text.replace(" ", "▁") if text else "", []
        while left:
            piece = max((one for one in PIECES if left.startswith(one)), key=len)
            ids.append(PIECES[piece])
            left = left.removeprefix(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError("only texts are read")
