"""The 17 prompt formats of ChatBind as data; the model's name or an option chose one of them.

source   dreamerlin/chatbind: conversation.py; golden chatbind_templates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FormatName = Literal[
    "default", "simple", "simple_legacy", "multimodal", "mpt_multimodal", "llava_v1", "multimodal_audio",
    "mpt_multimodal_audio", "llava_v1_audio", "multimodal_video", "mpt_multimodal_video", "llava_v1_video", "v1",
    "bair_v1", "vicuna_v1_1", "mpt", "mpt_text",
]  # fmt: skip
EOS = "</s>"
MPT_ROLES = ("<|im_start|>user\n", "<|im_start|>assistant\n")


@dataclass(frozen=True)
class Format:
    """The strings of a prompt: the system text, then turns.

    seeds       a question and an answer before the conversation
    after_user  after the system text and after every turn of the user
    after_reply after every answer; it also ends a generated one
    after_role  between the name of a role and its text
    opening     the assistant's turn that a prompt ends with
    """

    system: str
    user: str = "Human"
    assistant: str = "Assistant"
    seeds: tuple[str, ...] = ()
    after_user: str = "###"
    after_reply: str = "###"
    after_role: str = ": "

    @property
    def opening(self) -> str:
        return self.assistant + self.after_role.rstrip(" ")

    def role(self, name: str) -> str:
        """The label of a role; the reference has none for a system message after the first turn."""
        labels = {"user": self.user, "assistant": self.assistant}
        system = self.system_opening or ("SYSTEM" if self.user.isupper() else "System")
        return labels.get(name, system)

    @property
    def is_mpt(self) -> bool:
        return not self.after_role

    @property
    def system_opening(self) -> str:
        """What precedes a system text that replaces the format's."""
        return "<|im_start|>system\n" if self.is_mpt else ""


CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
CURIOUS_USER = CURIOUS_HUMAN.replace("human", "user")
ENERGY = (
    "What are the key differences between renewable and non-renewable energy sources?",
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, such "
    "as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are finite and "
    "will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences between renewable "
    "and non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources are "
    "finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
    "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
    "operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations than "
    "non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations and "
    "needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable sources "
    "are not, and their depletion can lead to economic and social instability.\n",
)
GREETING = "Hi there!  How can I help you today?\n"
HELLO = ("Hi!", GREETING)
LEGACY_HELLO = ("Hi!\n\n### Response:", GREETING)
LLAVA = (
    "You are LLaVA, a large language and {kind} assistant trained by UW Madison WAIV Lab."
    "You are able to understand the {content} content that the user provides, and assist the user with a variety of "
    "tasks using natural language.Follow the instructions carefully and explain your answers in detail."
)
SIMPLE = (
    "You are LLaVA, a large language model trained by UW Madison WAIV Lab{based}."
    "You are designed to assist human with a variety of tasks using natural language.Follow the instructions carefully."
)
MPT_LLAVA = (
    "<|im_start|>system\n- You are {who}.\n- You are able to understand the {content} content that the user provides, "
    "and assist the user with a variety of tasks using natural language.\n- You should follow the instructions "
    "carefully and explain your answers in detail."
)
MPT_TEXT = (
    "<|im_start|>system\n- You are a helpful assistant chatbot trained by MosaicML.\n- You answer questions.\n"
    "- You are excited to be able to help the user, but will refuse to do anything that could be considered harmful to "
    "the user.\n- You are more than just an information source, you are also able to write poetry, short stories, and "
    "make jokes."
)
KINDS = {"": ("vision", "visual"), "_audio": ("audio", "audio"), "_video": ("video", "video")}  # by ending of the name


def _two(system: str, assistant: str = "ASSISTANT") -> Format:
    return Format(system, "USER", assistant, after_user=" ", after_reply=EOS)


def _mpt(system: str) -> Format:
    user, assistant = MPT_ROLES
    return Format(system, user, assistant, after_user="<|im_end|>", after_reply="<|im_end|>", after_role="")


def _mpt_llava(kind: str, content: str) -> Format:
    who = f"LLaVA, a large language and {kind} assistant trained by UW Madison WAIV Lab"
    return _mpt(MPT_LLAVA.format(who=who, content=content))


FORMATS: dict[str, Format] = {
    "default": Format(CURIOUS_HUMAN, seeds=ENERGY),
    "v1": Format(CURIOUS_HUMAN, seeds=ENERGY),
    "simple": Format(SIMPLE.format(based=", based on LLaMA architecture"), seeds=HELLO),
    "simple_legacy": Format(SIMPLE.format(based=""), seeds=LEGACY_HELLO),
    "bair_v1": _two("BEGINNING OF CONVERSATION:", "GPT"),
    "vicuna_v1_1": _two(CURIOUS_USER),
    "mpt": _mpt(MPT_LLAVA.format(who="a helpful language and vision assistant", content="visual")),
    "mpt_text": _mpt(MPT_TEXT),
}
for _ending, (_kind, _content) in KINDS.items():
    FORMATS[f"multimodal{_ending}"] = Format(LLAVA.format(kind=_kind, content=_content), seeds=HELLO)
    FORMATS[f"llava_v1{_ending}"] = _two(LLAVA.format(kind=_kind, content=_content))
    FORMATS[f"mpt_multimodal{_ending}"] = _mpt_llava(_kind, _content)
