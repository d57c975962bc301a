"""The chat of one page while its events overlap: an answer grows in one thread, a click is handled in another one."""

from __future__ import annotations

import threading
from typing import Any

from chatbridge.serve.demo.chat_state import Chat


class LiveChat:
    """The chat that the page has now. Only the event that began last changes it: what an answer that was stopped,
    undone or cleared still has to say comes too late and is dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chat, self._turn = Chat(), 0

    @property
    def chat(self) -> Chat:
        with self._lock:
            return self._chat

    def begin(self) -> tuple[int, Chat]:
        """The number of a new event, from now on the only one that may `put`, and the chat that it begins with."""
        with self._lock:
            self._turn += 1
            return self._turn, self._chat

    def put(self, turn: int, chat: Chat) -> bool:
        """Replace the chat; False, without effect, for an event that is not the last one."""
        with self._lock:
            if turn != self._turn:
                return False
            self._chat = chat
            return True

    def __deepcopy__(self, memo: Any) -> LiveChat:
        """A new one: gradio copies the first value of a state for every page."""
        return LiveChat()


__all__ = ["LiveChat"]
