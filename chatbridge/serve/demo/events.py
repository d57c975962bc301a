"""Connects the components of the page with what their events do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any

from chatbridge.serve.demo.chat_state import Chat
from chatbridge.serve.demo.controls import Control
from chatbridge.serve.demo.given_panel import escaped
from chatbridge.serve.demo.handlers import SAME, Handlers, View, text_and_files
from chatbridge.serve.demo.live_chat import LiveChat

# The browser saves the file that the hidden button holds.
FETCH = """(file) => {
  if (!file || !file.url) return;
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name || '';
  document.body.append(link);
  link.click();
  link.remove();
}"""
TOGETHER = 16  # questions of all pages that are answered at once; others wait


@dataclass
class Components:
    """The parts of the page that events read or write."""

    box: Any
    chats: list[Any]
    given: Any
    status: Any
    state: Any
    controls: list[Any]
    buttons: dict[str, Any]


def connect(gr: Any, parts: Components, handlers: Handlers, controls: Sequence[Control]) -> None:
    """Inside the `with` of a Blocks: every event of the page."""
    page = _Page(gr, parts, handlers, controls)
    page.questions()
    page.changes()
    page.camera()
    page.messages()
    page.files()


class _Page:
    def __init__(self, gr: Any, parts: Components, handlers: Handlers, controls: Sequence[Control]) -> None:
        self.gr, self.parts, self.handlers, self.controls = gr, parts, handlers, controls
        self.outputs = [parts.box, *parts.chats, parts.given, parts.status]
        self.running: list[Any] = []

    def questions(self) -> None:
        """Events that make the model answer, and the stop button, which ends them."""
        parts, do, gr = self.parts, self.handlers, self.gr

        def send(message: Any, *rest: Any) -> Iterator[list[Any]]:
            yield from self._streamed(rest[-1], lambda chat: do.send(message, rest[:-1], chat))

        def retry(*rest: Any) -> Iterator[list[Any]]:
            yield from self._streamed(rest[-1], lambda chat: do.retry(rest[:-1], chat))

        def edit(data: Any, *rest: Any) -> Iterator[list[Any]]:
            index, text = _row(data.index), _text(data.value)
            yield from self._streamed(rest[-1], lambda chat: do.edit(index, text, rest[:-1], chat))

        edit.__annotations__ = {"data": gr.EditData}  # which is how gradio finds out what the event gives
        settings = [*parts.controls, parts.state]
        for function, first in ((send, ("message",)), (retry, ())):  # names of the API's arguments
            names = (*first, *(one.name for one in self.controls), "chat")
            parameters = [Parameter(one, Parameter.POSITIONAL_OR_KEYWORD) for one in names]
            function.__signature__ = Signature(parameters)

        self._panel_after(self._answers(parts.box.submit, send, [parts.box, *settings], "chat"), "given")
        others = [(parts.buttons["retry"].click, retry, "retry"), (parts.chats[0].edit, edit, False)]
        for event, function, name in (*others, *((chat.retry, retry, False) for chat in parts.chats)):
            self._panel_after(self._answers(event, function, settings, name))
        self._change(parts.box.stop, do.stopped, False)

    def changes(self) -> None:
        """Events that change the chat without an answer. They end an answer that is being generated."""
        parts, do = self.parts, self.handlers
        for event, name in ((parts.buttons["undo"].click, "undo"), *((chat.undo, False) for chat in parts.chats)):
            self._change(event, do.undo, name)
        for event, name in ((parts.buttons["clear"].click, "clear"), *((chat.clear, False) for chat in parts.chats)):
            self._change(event, lambda _: do.clear(), name)

    def _change(self, event: Callable[..., Any], change: Callable[[Chat], View], name: str | bool) -> None:
        """An event that ends an answer. The page is shown a second time: what was on its way may have come after."""

        def changed(live: LiveChat) -> list[Any]:
            turn, chat = live.begin()
            view = change(chat)
            live.put(turn, view.chat)
            return self._shown(view)

        def again(live: LiveChat) -> list[Any]:
            return self._shown(self.handlers.view(live.chat, SAME))[1:]

        made = event(changed, [self.parts.state], self.outputs, api_name=name, cancels=list(self.running), queue=False)
        made.then(again, [self.parts.state], self.outputs[1:], api_name=False, queue=False, show_progress="hidden")

    def camera(self) -> None:
        """A photo or a recording joins the files of the box."""
        parts, gr = self.parts, self.gr

        def attach(box: Any, file: str | None) -> tuple[Any, Any]:
            if not file:
                return gr.skip(), gr.skip()
            text, files = text_and_files(box)
            return {"text": text, "files": [*map(str, files), file]}, None

        for name in ("photo", "film"):
            if (camera := parts.buttons.get(name)) is not None:
                camera.input(attach, [parts.box, camera], [parts.box, camera], api_name=False, queue=False)

    def messages(self) -> None:
        """A click on a message shows what its answer was made of; thumbs."""
        for side, chat in enumerate(self.parts.chats):
            self._message_events(side, chat)

    def _message_events(self, side: int, chat: Any) -> None:
        parts, do, gr = self.parts, self.handlers, self.gr

        def show(data: Any, live: LiveChat) -> str:
            return do.show(_row(data.index), side, live.chat)

        def vote(data: Any, live: LiveChat) -> str:
            is_good = data.liked if isinstance(data.liked, bool) else None  # "": the thumb was taken back
            return _line(do.vote(_row(data.index), side, is_good, live.chat))

        show.__annotations__, vote.__annotations__ = {"data": gr.SelectData}, {"data": gr.LikeData}
        chat.select(show, [parts.state], [parts.given], api_name=False, show_progress="hidden")
        if chat.feedback_options:
            chat.like(vote, [parts.state], [parts.status], api_name=False, show_progress="hidden")

    def files(self) -> None:
        """Saving gives the browser a file, loading takes one."""
        parts, do = self.parts, self.handlers

        def save(live: LiveChat) -> tuple[str | None, str]:
            file, message = do.save(live.chat)
            return file, _line(message)

        def load(file: str, live: LiveChat) -> list[Any]:
            turn, chat = live.begin()
            view = do.load(file, chat)
            live.put(turn, view.chat)
            return self._shown(view)

        saved = parts.buttons["save"].click(save, [parts.state], [parts.buttons["file"], parts.status], api_name="save")
        saved.then(None, [parts.buttons["file"]], None, js=FETCH)
        parts.buttons["load"].upload(
            load, [parts.buttons["load"], parts.state], self.outputs, api_name="load", cancels=self.running
        )

    def _answers(self, event: Callable[..., Any], function: Any, inputs: Sequence[Any], name: str | bool) -> Any:
        made = event(function, inputs, self.outputs, api_name=name, concurrency_limit=TOGETHER,
                     concurrency_id="answers", show_progress="hidden")  # fmt: skip
        self.running.append(made)
        return made

    def _panel_after(self, event: Any, name: str | bool = False) -> None:
        """The panel of the chat as it is after an answer."""

        def given(live: LiveChat) -> str:
            return self.handlers.given(live.chat)

        painted = event.then(given, [self.parts.state], [self.parts.given], api_name=name, show_progress="hidden")
        self.running.append(painted)

    def _streamed(self, live: LiveChat, ask: Callable[[Chat], Generator[View]]) -> Iterator[list[Any]]:
        """Values of the outputs; the box has a stop button in place of its send button until the end.

        It ends, and with it the answer, once another event of the page has begun."""
        turn, chat = live.begin()
        last = None
        with closing(ask(chat)) as views:
            for number, view in enumerate(views):
                if not live.put(turn, view.chat):
                    return
                last = self._shown(view)
                last[0] = self.gr.skip() if number else self._box(view, is_ready=False)
                yield last
        if last is not None:
            yield [self.gr.MultimodalTextbox(submit_btn=True, stop_btn=False), *last[1:]]

    def _shown(self, view: View) -> list[Any]:
        given = self.gr.skip() if view.given is SAME else view.given
        return [self._box(view, is_ready=True), *view.messages, given, _line(view.status)]

    def _box(self, view: View, is_ready: bool) -> Any:
        """The input box with its send button, or with a stop button while an answer is generated."""
        value = {} if view.box is SAME else {"value": view.box}
        return self.gr.MultimodalTextbox(**value, submit_btn=is_ready, stop_btn=not is_ready)


def _line(text: str) -> str:
    return f"<p>{escaped(text)}</p>" if text else ""


def _row(index: Any) -> int:
    """The number of a message: gradio counts the parts of a message, too."""
    return index[0] if isinstance(index, (list, tuple)) else int(index)


def _text(value: Any) -> str:
    """The text of an edited message; gradio sends it alone or as parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return str(value.get("text") or value.get("content") or "")
    return "".join(map(_text, value or ()))


__all__ = ["TOGETHER", "Components", "connect"]
