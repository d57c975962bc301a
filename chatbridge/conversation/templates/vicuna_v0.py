"""`###Human: ... ###Assistant:`, the dialogue format of Vicuna v0 as ChatBridge writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from chatbridge.conversation.messages import Conversation, Media, Message, Part, Text
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.templates.base import TEMPLATES, Template

Block = Sequence[str | Text | Media]  # one "###Human: " block: strings of the format, text of the message, media items


@TEMPLATES.register("vicuna_v0")
class VicunaV0(Template):
    """A user turn with media is two blocks: `###Human: Given following image: <media>.###Human: What is this?`

    Media keep their position within the text of a turn: each run of media is introduced by blocks of its own, a video
    directly followed by audio as "video: <media> and its background audio: <media>." Media in later turns read alike.
    The answer is supervised up to and including the `###` that ends it; the next turn then starts without its own
    `###`. A conversation of one round ends its answer with a line break before `###`; longer ones do not, nor do
    dialogues that stop after one (`Message.in_dialogue`).

    Supervision follows the role. A `###` in the text of an answer is supervised as part of the answer (the reference
    stopped supervising there); at generation the answer ends at the first `###`.

    Deviations from the reference, on purpose:
    - answers before a later media item are supervised (the reference supervised only those after the last one);
    - an earlier answer in a prompt reads and tokenises as in training; the public demo wrote a blank before it, which
      training never used (`past_gap: " "` restores it).
    Sources: joez17/ChatBridge stage 2 and demo; goldens chatbridge_prompt_layout, chatbridge_conversation_format.
    """

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        separator: str = "###"  # opens a turn, ends an answer, stops generation
        user: str = "Human: "
        assistant: str = "Assistant:"
        system: str = "System: "  # for a system message after the first turn; a leading one has no label
        given: str = "Given following {modality}: "  # before a media item; {modality} is its name
        and_sound: str = " and its background audio: "  # between a video and the audio that follows it
        given_end: str = "."
        single_gap: str = "\n"  # between the answer and the separator when there is one round
        past_gap: str = ""  # before an earlier answer, in prompts only

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.config.separator,)

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        config = self.config
        num_rounds = sum(message.role == "assistant" for message in conversation) + reply
        is_single = num_rounds == 1 and not any(message.in_dialogue for message in conversation)
        end = (config.single_gap if is_single else "") + config.separator
        opening = config.separator  # empty after an answer, which ended with the separator
        for turn, message in enumerate(conversation):
            out.turn = turn
            if message.role == "assistant":
                out.text(opening + config.assistant)
                self.write_answer(message, out, before=config.past_gap if reply else "", after=end)
                opening = ""
            elif message.role == "system" and turn == 0:
                _write_block([part for part in message.parts if isinstance(part, (Media, Text))], message, out)
            else:
                name = config.user if message.role == "user" else config.system
                for block in self._blocks(message):
                    _write_block([opening + name, *block], message, out)
                    opening = config.separator
        if reply:
            out.text(opening + config.assistant)

    def _blocks(self, message: Message) -> Iterator[Block]:
        """At least one block; blank text beside media makes none."""
        for is_media, run in groupby(message.parts, key=_is_media):
            if is_media:
                yield from self._introductions([part for part in run if isinstance(part, Media)])
                continue
            words = [part for part in run if isinstance(part, Text)]
            if any(part.text.strip() for part in words) or not message.media:
                yield words
        if not message.parts:
            yield ()

    def _introductions(self, media: Sequence[Media]) -> Iterator[Block]:
        config, left = self.config, list(media)
        while left:
            item = left.pop(0)
            audio: Block = ()
            if item.modality == "video" and left and left[0].modality == "audio":
                audio = (config.and_sound, left.pop(0))
            yield (config.given.format(modality=item.modality), item, *audio, config.given_end)


def _write_block(block: Block, message: Message, out: SpanWriter) -> None:
    """Text is supervised if the message is, the strings of the format never."""
    for piece in block:
        if isinstance(piece, Media):
            out.media(piece)
        elif isinstance(piece, Text):
            out.words(piece.text, message.is_supervised)
        else:
            out.text(piece)


def _is_media(part: Part) -> bool:
    return isinstance(part, Media)
