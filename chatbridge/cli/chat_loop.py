"""The conversation of `chatbridge chat`: lines of questions, and commands that begin with a slash."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Generator
from dataclasses import fields
from pathlib import Path

import yaml

from chatbridge.cli.chat_terminal import AnswerPrinter, tell, typed_lines
from chatbridge.common.errors import MediaError, nearest
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.dialogue import Dialogue
from chatbridge.serve.media_refs import names_of, refs_in
from chatbridge.serve.saved_conversations.conversation_file import LoadError, SaveError
from chatbridge.serve.session import ChatTurn
from chatbridge.serve.what_it_saw import what_it_saw

COMMAND = re.compile(r"/([a-z][a-z0-9_]*)(?:\s+(.*))?", re.DOTALL)  # "/dev/null" and "/ 2" are text


class ChatLoop:
    """Reads lines until /quit or the end of input, answers questions and runs commands.

    failures   questions without an answer and commands that failed
    """

    def __init__(self, dialogue: Dialogue, printer: AnswerPrinter) -> None:
        self.dialogue, self.printer = dialogue, printer
        self.failures, self.num_questions = 0, 0
        self.is_open = True
        media = {name: f"FILE ...   add {name} to the next question" for name in dialogue.engine.modalities}
        self.commands: dict[str, tuple[Callable[[str], None], str]] = {
            "attach": (self._attach, "FILE ...   the same; the content of a file decides its modality"),
            "media": (self._media, "list the files of this conversation"),
            "drop": (self._drop, "remove the files that wait for the next question"),
            "undo": (self._undo, "remove the last question and its answer"),
            "retry": (self._retry, "answer the last question again"),
            "save": (
                self._save,
                "FILE.jsonl   save the conversation, with copies of its files; FILE.zip: in one file; "
                "/save FILE.jsonl link: without copies",
            ),
            "load": (
                self._load,
                "FILE [ID]   continue a saved conversation: the last one of the file, or that ID or number",
            ),
            "prompt": (self._prompt, "show what the model was given for the last question, and what it took"),
            "reset": (self._reset, "begin a new conversation"),
            "set": (self._set, "KEY=VALUE ...   change settings of generation"),
            "settings": (self._settings, "show model, weights and settings of generation"),
            "help": (self._help, "this list"),
            "quit": (self._quit, "leave (also Ctrl-D)"),
        }
        named = {name: (lambda files, name=name: self._attach(files, name), text) for name, text in media.items()}
        self.commands = {**{name: one for name, one in named.items() if name not in self.commands}, **self.commands}

    def run(self) -> None:
        for line in typed_lines():
            self.take(line)
            if not self.is_open:
                return

    def take(self, line: str) -> None:
        """One line: a command, or a question. `//` begins a question with a slash."""
        found = COMMAND.fullmatch(line.strip())
        if found is not None:
            self._run(found[1], (found[2] or "").strip())
        elif line.strip() or (self.dialogue.pending and sys.stdin.isatty()):
            self.question(line[1:] if line.startswith("//") else line)

    def question(self, text: str) -> None:
        self._show(self.dialogue.ask(text))

    def _show(self, turns: Generator[ChatTurn]) -> None:
        try:
            turn = self.printer.show(turns, self.dialogue.stop)
        except KeyboardInterrupt:  # the second Ctrl-C, while the model reads a long question
            tell("interrupted")
            return
        self.num_questions += turn is not None
        self.failures += turn is not None and turn.problem is not None

    def _run(self, name: str, rest: str) -> None:
        name = {"exit": "quit", "clear": "reset"}.get(name, name)
        if name not in self.commands:
            guess = nearest(name, self.commands)
            hint = f"did you mean /{guess}? " if guess else ""
            self._failed(f"there is no command /{name}; {hint}/help lists all; // begins a question with a slash")
            return
        self.commands[name][0](rest)

    def _failed(self, message: str) -> None:
        self.failures += 1
        tell(message)

    def _attach(self, files: str, modality: str | None = None) -> None:
        refs = refs_in(files, modality)
        if not refs:
            self._failed(f"/{modality or 'attach'} needs a file or an http(s) address")
        for one in refs:
            try:
                added = self.dialogue.attach(one)
            except MediaError as error:
                self._failed(f"not attached: {error}")
                continue
            except KeyboardInterrupt:
                self._failed(f"not attached: {one.ref}: interrupted")
                return
            tell(f"attached: {', '.join(names_of([added]))}" + (f" ({added.note})" if added.note else ""))

    def _media(self, rest: str) -> None:
        for number, turn in enumerate(self.dialogue.turns, start=1):
            for name in names_of(turn.attached):
                tell(f"question {number}: {name}")
        for name in names_of(self.dialogue.pending):
            tell(f"next question: {name}")
        if not self.dialogue.pending and not any(turn.attached for turn in self.dialogue.turns):
            tell("no files")

    def _drop(self, rest: str) -> None:
        tell(f"removed: {', '.join(names_of(self.dialogue.pending)) or 'nothing'}")
        self.dialogue.pending = ()

    def _undo(self, rest: str) -> None:
        removed = self.dialogue.undo()
        tell(f"removed: {removed.text!r}" if removed else "there is no question to remove")

    def _retry(self, rest: str) -> None:
        if not self.dialogue.turns:
            self._failed("there is no question to answer again")
            return
        if not self.dialogue.options.sample:
            tell("note: answers are not sampled, so the new one is the same; /set temperature=0.7 samples")
        self._show(self.dialogue.retry())

    def _reset(self, rest: str) -> None:
        self.dialogue.reset()
        tell("a new conversation")

    def _save(self, rest: str) -> None:
        words = _words(rest)
        is_link = len(words) == 2 and words[1] == "link"
        if not words or (len(words) > 1 and not is_link):
            self._failed("/save needs one file: /save talk.jsonl, or /save talk.jsonl link")
            return
        try:
            saved = self.dialogue.save(Path(words[0]), "link" if is_link else "copy")
        except SaveError as error:
            self._failed(f"not saved: {error}")
            return
        turns = (
            "1 question with its answer" if saved.num_turns == 1 else f"{saved.num_turns} questions with their answers"
        )
        tell("\n".join([f"saved {turns} in {saved.file} as {self.dialogue.id}", *saved.notes]))

    def _load(self, rest: str) -> None:
        words = _words(rest)
        if not 0 < len(words) < 3:
            self._failed("/load needs a file, and may name one of its conversations: /load talks.jsonl 2")
            return
        try:
            found = self.dialogue.load(Path(words[0]), words[1] if len(words) > 1 else None)
        except LoadError as error:
            self._failed(f"not loaded: {error}")
            return
        for turn in found.session:
            tell(f"> {turn.text}{_files(turn)}" + (f"\n{turn.display}" if turn.is_done else ""))
        notes = (f"note: {note.replace('asking it again', '/retry')}" for note in found.notes)
        tell("\n".join([f"loaded {found.id} with {len(found.session)} questions", *notes]))

    def _prompt(self, rest: str) -> None:
        if not self.dialogue.turns:
            tell("no question was asked yet")
            return
        seen = what_it_saw(self.dialogue.engine, self.dialogue.turns)
        media = (f"{one.modality} {one.name}: {one.about}; {one.num_tokens} tokens" for one in seen.media)
        counts = "; ".join(f"{name}: {value}" for name, value in seen.counts)
        tell("\n".join(filter(None, [*media, seen.prompt_text, counts, *seen.notes])))

    def _set(self, rest: str) -> None:
        try:
            self.dialogue.set(_settings_of(rest))
        except (TypeError, ValueError) as error:
            self._failed(str(error).replace("GenerateOptions has", "there is").replace("GenerateOptions: ", ""))
            return
        tell(self._generation())

    def _settings(self, rest: str) -> None:
        engine = self.dialogue.engine
        accepted = ", ".join(engine.modalities) or "text only"
        tell("\n".join([*engine.about, f"accepts {accepted}", self._generation()]))

    def _generation(self) -> str:
        values = ((one.name, getattr(self.dialogue.options, one.name)) for one in fields(GenerateOptions))
        return "generation: " + " ".join(f"{name}={'null' if value is None else value}" for name, value in values)

    def _help(self, rest: str) -> None:
        lines = [f"  /{name:<9} {text}" for name, (_, text) in self.commands.items()]
        tell("\n".join(["a line is a question; Ctrl-C stops its answer; commands:", *lines]))

    def _quit(self, rest: str) -> None:
        self.is_open = False


def _words(text: str) -> list[str]:
    """The words of a command; quotes as in a shell."""
    try:
        return [text] if Path(text).is_file() else shlex.split(text)
    except (ValueError, OSError):  # a quote without its end, or a name that no file can have
        return text.split()


def _files(turn: ChatTurn) -> str:
    names = ", ".join(names_of(turn.attached))
    return f"  ({names})" if names else ""


def _settings_of(text: str) -> dict[str, object]:
    """raises ValueError for words that are not KEY=VALUE"""
    found: dict[str, object] = {}
    for word in text.split():
        key, sign, value = word.partition("=")
        try:
            found[key.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            sign = ""
        if not sign or not value:
            raise ValueError(f"expected KEY=VALUE, got {word!r}; for example /set temperature=0.7")
    if not found:
        raise ValueError("/set needs KEY=VALUE; /settings shows the present ones")
    return found
