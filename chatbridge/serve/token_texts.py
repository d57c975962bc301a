"""The text of single tokens, as it stands within a text."""

from __future__ import annotations

from chatbridge.conversation.tokenizer import TokenizerLike

MOST = 65536  # texts that are remembered


class TokenTexts:
    """Token id -> its text, with the blank before it where it has one. Any number of threads may use it: each entry is
    written whole, and always with the same value."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        self._before = list(tokenizer.encode("a"))[-1:]  # tokenizers drop a blank at the beginning of a text
        self._head = tokenizer.decode(self._before)
        self._texts: dict[int, str] = {}

    def __getitem__(self, id: int) -> str:
        found = self._texts.get(id)
        if found is None:
            if len(self._texts) >= MOST:
                self._texts = {}
            text = self._tokenizer.decode([*self._before, id])
            is_apart = text.startswith(self._head)
            found = self._texts[id] = text[len(self._head) :] if is_apart else self._tokenizer.decode([id])
        return found


__all__ = ["TokenTexts"]
