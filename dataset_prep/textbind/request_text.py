"""The request for a conversation: the instructions, examples of good ones, and the images to use.

The content of the instructions follows the paper (arXiv 2309.08637) and the released filters; the wording is ours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError
from dataset_prep.textbind.clean import KEPT, Cleaning
from dataset_prep.textbind.image_tags import tagged, turns
from dataset_prep.textbind.record_files import read_records

SHIPPED = Path(__file__).with_name("examples.jsonl")
SYSTEM = "You write conversations that teach an assistant to understand images and to show them."
EXAMPLES, IMAGES = "{examples}", "{images}"  # in a prompt file
PROMPT = """\
Write a conversation between a human and an assistant. The assistant is helpful, honest and harmless.

Both can put images between their words. An image is written <imgX> DESCRIPTION </imgX>, where X is its number and
DESCRIPTION stands for everything that can be seen in it. To the two speakers it is an image: they never speak of
numbers, tags or descriptions.

Rules:
- Each message begins on a new line with "Human:" or "Assistant:". The human begins, the two take turns, and each has
  at least two messages.
- Use only the images that are listed last, each at most once. Copy the number and the description exactly, on one
  line. Images that do not fit the conversation are left out.
- The conversation is about what the images show: the human asks what can be seen or what it means, asks for
  background that cannot be seen, compares images, or asks for a new image. Refer to details and to earlier images.
- The assistant shows an image where it says more than words, and not only when it is asked to.
- Write the conversation and nothing before or after it.

{examples}Images:
{images}

Conversation:
"""


@dataclass(frozen=True)
class Example:
    """A good conversation.

    images   as the language model reads them
    text     turns, separated by a blank line
    """

    id: str
    images: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return "\n".join(["Images:", *self.images, "", "Conversation:", self.text])


def read_examples(paths: Sequence[Path]) -> list[Example]:
    """The examples of several files, each id once.

    raises   DataError for an example that `clean` would drop: the language model would imitate its fault
    """
    found: dict[str, Example] = {}
    for path in paths:
        for number, record in enumerate(read_records(path), start=1):
            cleaning = Cleaning()
            if cleaning.add(record) != KEPT:
                fault = f"{cleaning.verdicts[0]} {cleaning.details[0]}".strip()
                raise DataError(f"{path}: example {number} cannot be used: {fault}; mend or remove it")
            name = str(record.get("id", f"{path.stem}-{number}"))
            text = "\n\n".join(turns(cleaning.kept[0]["response"]))
            found.setdefault(name, Example(name, tuple(record["image"]), text))
    return list(found.values())


def choose_examples(examples: Sequence[Example], number: int, seed: int, sample_id: str) -> list[Example]:
    """The examples for a sample; they depend on nothing but the pool, the seed and the sample's id."""
    return random.Random(f"{seed} {sample_id}").sample(examples, min(number, len(examples)))


def request_text(prompt: str, examples: Sequence[Example], captions: Sequence[str]) -> str:
    """The text of a request.

    prompt   with {examples} and {images}
    """
    shown = "".join(f"Example {number}\n{example}\n\n" for number, example in enumerate(examples, start=1))
    before, _, after = prompt.partition(IMAGES)
    return before.replace(EXAMPLES, shown) + "\n".join(tagged(captions)) + after.replace(EXAMPLES, shown)


def read_prompt(path: Path | None) -> str:
    """The instructions of a file, or ours. raises DataError when a file does not say where the images are put"""
    if path is None:
        return PROMPT
    try:
        prompt = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason})") from None
    if prompt.count(IMAGES) != 1 or prompt.count(EXAMPLES) > 1:
        raise DataError(f"{path}: must contain {IMAGES} once, and may contain {EXAMPLES} once")
    return prompt
