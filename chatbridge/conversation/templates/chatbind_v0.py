"""`### Human: ...` and `### Assistant: ...` in lines of their own: ChatBind over Vicuna v0 or LLaMA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chatbridge.conversation.messages import Conversation, Message
from chatbridge.conversation.spans import Encode, Span, SpanWriter
from chatbridge.conversation.templates._chatbind_formats import CURIOUS_HUMAN
from chatbridge.conversation.templates._chatbind_fragments import Fragments, size_of
from chatbridge.conversation.templates._chatbind_template import ChatbindTemplate, split_system
from chatbridge.conversation.templates.base import TEMPLATES

LABELS = {"user": "Human", "assistant": "Assistant", "system": "System"}
KEPT = 2  # tokens of each turn of the user that the reference supervises


@TEMPLATES.register("chatbind_v0")
class ChatbindV0(ChatbindTemplate):
    """Training sequences and prompts differ, as released: another system text, a greeting before the first question,
    and no blank or line break around `###` in prompts (`prompt: training` uses the training format for both).

    Supervised are each answer, the line break and the `###` after it. The reference supervises `### Assistant:` and
    the beginning of questions too, and its mask moves to the right by one token per turn wherever "###" after a line
    break has as many tokens as "###" at the beginning of a text (`labels: released`).

    Deviations from the reference, on purpose:
    - all images of a sample survive (the reference keeps the last one only);
    - a media position is never supervised, not even where the reference's mask has moved over it;
    - the sequence begins with the tokenizer's own beginning-of-sequence token (for model folders whose path contains
      "llama", the reference set it to `</s>`).
    Sources: dreamerlin/chatbind, train.py and run_chatbind; goldens chatbind_labels, chatbind_templates.
    """

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(ChatbindTemplate.Config):
        training_system: str = CURIOUS_HUMAN  # before the first turn of a training sequence

    def _write_training(self, conversation: Conversation, fragments: Fragments, reply: bool) -> None:
        own, turns = split_system(conversation)
        fragments.text((self.config.training_system if own is None else own) + "\n\n")
        opening = "### "  # a blank after an answer, which ended with ###
        for turn, message in turns:
            fragments.turn = turn
            if message.role == "assistant":
                supervised = message.is_supervised and not reply
                fragments.text(f"{opening}Assistant:")
                fragments.text(" ", supervised)
                fragments.parts(message, supervised)
                fragments.text("\n###", supervised)
                opening = " "
            else:
                self._write_asked(message, fragments, opening)
                opening = "### "
        fragments.text(f"{opening}Assistant:" if reply else opening)

    def _write_asked(self, message: Message, fragments: Fragments, opening: str = "### ") -> None:
        fragments.text(f"{opening}{LABELS[message.role]}: ")
        fragments.parts(message, message.is_supervised and message.role != "assistant")
        fragments.text("\n")

    def _released_flags(
        self, conversation: Conversation, spans: list[Span], encode: Encode, lengths: Mapping[str, int]
    ) -> list[bool]:
        """Every turn is tokenised alone, with a beginning-of-sequence token of its own, to count its tokens."""
        own, turns = split_system(conversation)
        flags = [True] * sum(span.length for span in spans)
        start = len(encode((self.config.training_system if own is None else own) + "\n\n"))
        flags[:start] = [False] * min(start, len(flags))
        for _, message in turns:
            fragments = self._fragments()
            self._write_asked(message, fragments)
            end = start + 1 + size_of(fragments, SpanWriter(encode, lengths))
            if message.role != "assistant" or message.supervised is False:
                first = start + KEPT if message.role != "assistant" else start
                flags[first:end] = [False] * len(flags[first:end])
            start = end
        return flags
