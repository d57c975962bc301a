"""`###Human: <Img>...</Img> Describe this image. ###Assistant: ...###`: MiniGPT-4 over Vicuna v0, stage 2 and chat."""

from __future__ import annotations

from dataclasses import dataclass

from chatbridge.conversation.messages import Conversation, Media, Message, Text
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.templates.base import TEMPLATES, Template

SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)


@TEMPLATES.register("minigpt4_vicuna0")
class MiniGPT4Vicuna0(Template):
    """Training sequences and prompts differ, as in the reference: a prompt begins with a system text that training
    never used, and has no blank before `###Assistant`. The released weights were trained and used with these two forms.

    The answer is supervised together with the end symbol; after `max_tokens` it is cut and loses it (the prompt and
    the image do not count). Stage 1 has no prompt: its template is `caption`.

    Deviations from the reference, on purpose:
    - an instruction is drawn per sample, not once for a whole batch;
    - an answer that contains the padding string "$$" is supervised like any other (the reference masked that piece);
    - a prompt that is too long is not cut at its start, which has the system text and the image;
    - more than one round can be trained; the end symbol of an answer then opens the next turn.
    Sources: Vision-CAIR/MiniGPT-4, minigpt_base.py and conversation.py; goldens minigpt4_stage2, minigpt4_chat.
    """

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        system: str = SYSTEM  # before the first turn of a prompt, unless the conversation has its own
        user: str = "###Human: "
        next_user: str = "Human: "  # in training after an answer, whose end symbol opened the turn
        assistant: str = " ###Assistant: "  # in training
        chat_assistant: str = "###Assistant: "  # in prompts
        image: str = "<Img>"
        image_end: str = "</Img>"
        end_sym: str = "###"  # supervised after every answer, and stops generation
        round_token: str = ""  # special token ("bos") before a round that does not begin the sequence
        end_token: str = ""  # special token ("eos") supervised after every answer
        max_tokens: int = 160  # of one answer, end symbol included

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.config.end_sym,) if self.config.end_sym else ()

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        turns = list(enumerate(conversation))
        own = bool(turns) and turns[0][1].role == "system"
        if own:
            self._words(turns.pop(0)[1], out)
        elif reply:
            out.text(self.config.system)
        started = own or (reply and bool(self.config.system))
        if reply:
            self._prompt(turns, out, started)
        else:
            self._training_turns(turns, out, started)

    def _training_turns(self, turns: list[tuple[int, Message]], out: SpanWriter, started: bool) -> None:
        config, opening = self.config, self.config.user
        for turn, message in turns:
            out.turn = turn
            if message.role == "assistant":
                out.text(config.assistant)
                self.write_answer(message, out, "", config.end_sym, config.max_tokens, config.end_token)
                opening = config.next_user
            else:
                self._open_round(opening, out, started)
                self._words(message, out)
                opening = config.user
            started = True

    def _prompt(self, turns: list[tuple[int, Message]], out: SpanWriter, started: bool) -> None:
        """Past answers are part of the running text, as the reference tokenises them."""
        for turn, message in turns:
            out.turn = turn
            if message.role == "assistant":
                out.text(self.config.chat_assistant)
            else:
                self._open_round(self.config.user, out, started)
            self._words(message, out)
            started = True
        out.text(self.config.chat_assistant)

    def _open_round(self, opening: str, out: SpanWriter, started: bool) -> None:
        if started and self.config.round_token:
            out.special(self.config.round_token)
        out.text(opening)

    def _words(self, message: Message, out: SpanWriter) -> None:
        """Media between their marks; a blank separates a mark and a word."""
        before = ""
        for part in message.parts:
            if isinstance(part, Media):
                gap = " " if before and not before[-1].isspace() else ""
                out.text(gap + self.config.image)
                out.media(part)
                out.text(self.config.image_end)
                before = self.config.image_end
            elif isinstance(part, Text) and part.text:
                gap = " " if before == self.config.image_end and part.text[0].isalnum() else ""
                out.words(gap + part.text, message.is_supervised and message.role != "assistant")
                before = part.text
