"""Records of other data sets as TextBind's second stage trains on them: one function for each source.

Every function gets a published record and returns its turns in the layout of train.json. `released=True` reproduces
process_instruction_data.py of the released code with its errors:

    llava     an image in every turn whose text has <image>, also in answers, and one for several markers of a turn
    shikra    two blanks are deleted, not joined: "the  ball" becomes "theball"
    alpaca_gpt4, multi_instruct   a literal <image> in a text stays, although no image belongs to it
    mim       the last turn of every conversation is left out, answers too

Otherwise these are corrected: literal markers of texts without an image are removed, as the released code does for
Platypus alone, and blanks are joined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.datasets.formats.instructions import PREAMBLES
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.textbind import IMAGE, read_record

Turns = list[dict[str, Any]]
DESCRIBE = f"{IMAGE}\nDescribe this image in detail. Give as many details as possible. Say everything you see."
SPEAKERS = {"human": "user", "gpt": "assistant"}
TAG = re.compile(r"</?img\d+>")
MARKS = ("<ph_st>", "<ph_ed>")  # of Shikra, around an object that has boxes


def turn(role: str, content: str, images: Sequence[str] = ()) -> dict[str, Any]:
    return {"role": role, "content": content, "image_list": list(images), "caption_list": []}


def answered(question: str, answer: str, images: Sequence[str] = ()) -> Turns:
    return [turn("user", question, images), turn("assistant", answer)]


def unmarked(text: str, released: bool = False) -> str:
    """The text without markers that no image belongs to."""
    return text if released else text.replace(IMAGE, "")


def llava(fields: Fields, released: bool = False) -> Turns:
    """LLaVA-Instruct: the image at its marker."""
    found = [(one.text("from"), one.text("value")) for one in map(Fields, fields.items("conversations"))]
    name = fields.name("image") if any(IMAGE in text for _, text in found) else ""
    turns = []
    for speaker, text in found:
        if speaker not in SPEAKERS:
            raise BadRecord(f"'from' is {speaker!r}, expected human or gpt")
        is_answer = speaker == "gpt"
        if is_answer and not released:
            text = unmarked(text)
        count = min(1, text.count(IMAGE)) if released else text.count(IMAGE)
        turns.append(turn(SPEAKERS[speaker], text, [name] * count))
    return turns


def minigpt4(fields: Fields, released: bool = False) -> Turns:
    """cc_sbu_align of MiniGPT-4."""
    return answered(DESCRIBE, unmarked(fields.text("caption"), released), [f"{fields.name('image_id')}.jpg"])


def alpaca_gpt4(fields: Fields, released: bool = False) -> Turns:
    """Alpaca's instructions, answered by GPT-4, in Alpaca's own prompt."""
    return answered(*(unmarked(text, released) for text in _alpaca(fields)))


def platypus(fields: Fields, released: bool = False) -> Turns:
    """Open-Platypus, in Alpaca's prompt."""
    return answered(*map(unmarked, _alpaca(fields)))


def _alpaca(fields: Fields) -> tuple[str, str]:
    """The prompt of Stanford Alpaca, with or without input, and the answer."""
    given = "".join(fields.texts("input")) if "input" in fields.record else ""
    sections = [PREAMBLES[bool(given)], f"### Instruction:\n{fields.text('instruction')}"]
    sections += [f"### Input:\n{given}"] if given else []
    return "\n\n".join([*sections, "### Response:"]), fields.text("output")


def multi_instruct(fields: Fields, released: bool = False) -> Turns:
    """MultiInstruct: the image before the prompt."""
    question = unmarked(fields.text("prompt"), released)
    return answered(f"{IMAGE}\n{question}", unmarked(fields.text("target"), released), [fields.name("image_path")])


def shikra(fields: Fields, released: bool = False) -> Turns:
    """Shikra-RD: questions with chains of thought; indices of boxes stay in the text."""
    question, answer = (_without_marks(fields.text(key), released) for key in ("question", "cot_with_ans"))
    return answered(f"{IMAGE}\n{question}", answer, [fields.name("img_path")])


def _without_marks(text: str, released: bool) -> str:
    for mark in MARKS:
        text = text.replace(mark, "")
    text = text.replace("  ", "") if released else re.sub(r" {2,}", " ", unmarked(text))
    return text.replace(" ,", ",").replace(" .", ".")


def mim(fields: Fields, released: bool = False) -> Turns:
    """TextBind's own records; leftover tags of captions are removed."""
    turns = [dict(Fields(one).record) for one in fields.items("conversation")]
    if released:
        turns = turns[:-1]
    for one in turns:
        captions = one.get("caption_list") or ()
        one["caption_list"] = [TAG.sub("", text).strip() if isinstance(text, str) else text for text in captions]
    return turns


@dataclass(frozen=True)
class Source:
    """One source of the blend.

    published  files that --list names
    turns      (fields of a record, released) -> turns
    images     default folder of its images, None for a text-only source
    section    key of the list inside the file, "" for a plain list
    released   records of it in the released blend
    is_coco    its images are found by their number
    """

    published: str
    turns: Callable[..., Turns]
    images: str | None = None
    section: str = ""
    released: int = 0
    is_coco: bool = False

    def record(self, fields: Fields, image_dir: str | None, released: bool = False) -> dict[str, Any]:
        """A record of train.json. raises BadRecord, with `released` only for fields that are absent or of another type

        image_dir   folder of its images, None for a text-only source
        """
        record: dict[str, Any] = {"conversation": self.turns(fields, released)}
        if image_dir is not None:
            record["image_dir"] = image_dir
        if not released:
            read_record(Fields(record))
        return record


SOURCES = {  # in the order of the released blend
    "platypus": Source("Open-Platypus (parquet, json or jsonl)", platypus, released=24_926),
    "minigpt4": Source("filter_cap.json", minigpt4, "data/cc_sbu_align/image", "annotations", 3_439),
    "shikra": Source("GPT4GEN_BoxCoT_test.jsonl, GPT4GEN_BoxCoT_train.jsonl, GPT4GEN_RD_BoxCoT_train.jsonl",
                     shikra, "data/flickr30k/images", released=7_081),
    "llava": Source("llava_instruct_150k.json", llava, "data/multis/coco/images", released=157_712, is_coco=True),
    "multi_instruct": Source("train_2000.jsonl, test_2000.jsonl", multi_instruct, "data/multi_instruct",
                             released=105_745),
    "mim": Source("train.json", mim, "data/textbind/images", released=21_629),
    "alpaca_gpt4": Source("alpaca_gpt4_data.json", alpaca_gpt4),
}  # fmt: skip
