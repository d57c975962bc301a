"""`[INST] <Img>...</Img> Describe this image. [/INST] ...</s>`: MiniGPT-4 over Llama-2-chat, stage 2 and chat."""

from __future__ import annotations

from dataclasses import dataclass

from chatbridge.conversation.templates.base import TEMPLATES
from chatbridge.conversation.templates.minigpt4_vicuna0 import MiniGPT4Vicuna0


@TEMPLATES.register("minigpt4_llama2")
class MiniGPT4Llama2(MiniGPT4Vicuna0):
    """The same rules with Llama-2's marks: every round of a prompt begins with the token `<s>`, answers are
    supervised with the token `</s>`.

    The system text is plain text before the first round (no <<SYS>>), and past answers in a prompt are not followed by
    `</s>`; both as released. Unlike the reference's demo, `###` does not end an answer: Llama-2 writes it as a heading.
    Sources: Vision-CAIR/MiniGPT-4, conversation.py (CONV_VISION_LLama2); goldens minigpt4_stage2, minigpt4_chat.
    """

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(MiniGPT4Vicuna0.Config):
        user: str = "[INST] "
        next_user: str = "[INST] "
        assistant: str = " [/INST] "
        chat_assistant: str = " [/INST] "
        end_sym: str = ""
        round_token: str = "bos"
        end_token: str = "eos"
