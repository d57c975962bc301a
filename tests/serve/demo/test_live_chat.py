"""Events of one page that overlap."""

from __future__ import annotations

import threading
from copy import deepcopy

from chatbridge.serve.demo.chat_state import Chat
from chatbridge.serve.demo.live_chat import LiveChat


def test_only_the_last_event_changes_the_chat():
    """fails when an answer that was undone or cleared comes back, or an event begins with an old chat"""
    live = LiveChat()
    answer, _ = live.begin()
    assert live.put(answer, Chat(id="growing"))
    undo, found = live.begin()
    assert found.id == "growing" and live.put(undo, Chat(id="undone"))
    assert not live.put(answer, Chat(id="grown")) and live.chat.id == "undone"


def test_every_page_has_a_chat_of_its_own():
    """fails when gradio's copy of the first value shares a chat between pages"""
    live = LiveChat()
    live.put(live.begin()[0], Chat(id="mine"))
    assert deepcopy(live).chat == Chat() and live.chat.id == "mine"


def test_many_events_at_once():
    """fails when an event changes the chat after a later one has begun, or two events have the same number"""
    live, begun, kept = LiveChat(), [], []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(500):
            turn, _ = live.begin()
            begun.append(turn)
            if live.put(turn, Chat(id=str(turn))):
                kept.append(turn)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(begun) == list(range(1, 4001))
    last, chat = live.begin()
    assert last == 4001 and int(chat.id) == max(kept) == 4000  # nobody began after it, so it was not dropped
