"""Dialogues as turns {"from": "system" | "human" | "gpt", "value": text}.

llava, sharegpt   [{"id", "image"?: "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                  {"from": "gpt", ...}]}]. Also "images", "videos", "audios" with lists of files, and text-only records.
                  The speaker may be human or user; gpt, assistant, chatgpt, bing or bard; system. The other spelling,
                  "messages" with "role" and "content", is read too.
avsd              dialogues about videos of Charades (formats/avsd.py).
videochat         VideoChat: [{"video": "a/1.mp4", "QA": [{"i": instruction, "q", "a"}]}]; images come as "image".
                  Video-ChatGPT: [{"video_id": "v_k_ZXmr8pmrs", "q", "a"}].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from chatbridge.common.errors import nearest
from chatbridge.conversation.modalities import MODALITIES, REPLACEABLE
from chatbridge.datasets.formats.avsd import AVSD
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.records import DialogueRecord, Format, Turn, each, rounds

ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
}
LineBreaks = Literal["keep", "remove"]
OPTIONS = ("single", "file_prefix", "line_breaks", "pairing")  # of the builder, for records that name their files


def _sharegpt(fields: Fields) -> DialogueRecord:
    """LLaVA's layout too: the same turns, and files by their names."""
    turns = turns_of(fields, "conversations", "conversation", "messages")
    files = {kind: _files(fields, kind) for kind in MODALITIES.names()}
    return DialogueRecord(
        id=fields.name("id") if "id" in fields.record else "",
        files={kind: names for kind, names in files.items() if names},
        turns=turns,
    )


def _files(fields: Fields, kind: str) -> tuple[str, ...]:
    """The media files of a modality. A number in a field `depth` of an image's record is not one."""
    names = (kind, f"{kind}s")
    is_ours = MODALITIES.get(kind) in REPLACEABLE
    return () if is_ours and isinstance(fields.record.get(fields.first(*names)), (int, float)) else fields.files(*names)


def turns_of(fields: Fields, *names: str) -> tuple[Turn, ...]:
    """The turns in a list of one of these names. raises BadRecord that names the turn"""
    return tuple(_turn(turn, number) for number, turn in enumerate(fields.items(*names)))


def _turn(value: Any, number: int) -> Turn:
    try:
        fields = Fields(_with_one_speaker(value))
        speaker, text = fields.text("from", "role"), fields.text("value", "content")
    except BadRecord as error:
        raise BadRecord(f"turn {number}: {error}") from None
    if speaker not in ROLES:
        guess = nearest(speaker, ROLES)
        meant = f"; did you mean {guess!r}?" if guess else ""
        raise BadRecord(f"turn {number}: 'from' is {speaker!r}, expected one of {', '.join(ROLES)}{meant}")
    return ROLES[speaker], text


def _with_one_speaker(turn: Any) -> Any:
    """Without "role" where "from" names the same speaker in the other spelling: human and user."""
    if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("from", "role")):
        return turn
    is_same = ROLES.get(turn["from"]) == ROLES.get(turn["role"]) is not None
    return {key: value for key, value in turn.items() if key != "role"} if is_same else turn


def in_lines(text: str, line_breaks: LineBreaks) -> str:
    """The text, with `remove` without its line breaks: words on both sides of one are joined, as published."""
    return text.replace("\r", "").replace("\n", "") if line_breaks == "remove" else text


def overlapping(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Rounds of message k and message k + 1, half as many as there are messages; system turns stay in front."""
    system = tuple(turn for turn in turns if turn[0] == "system")
    texts = [text for role, text in turns if role != "system"]
    return (*system, *rounds(zip(texts[: len(texts) // 2], texts[1:])))


def _videochat(fields: Fields) -> DialogueRecord:
    """Both layouts, distinguished by "QA"."""
    name = fields.name("video", "image", "video_id")
    is_single = "QA" not in fields.record
    asked = [_asked(fields)] if is_single else [_round(one, number) for number, one in enumerate(fields.items("QA"))]
    return DialogueRecord(id=name, names=(name,), turns=rounds(asked))


def _asked(fields: Fields) -> tuple[str, str]:
    return fields.text("q"), fields.text("a")


def _round(value: Any, number: int) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise BadRecord(f"QA {number} is {kind_of(value)}, expected an object with 'q' and 'a'")
    fields = Fields(value)
    instruction = fields.text("i").strip() if "i" in value else ""
    question, answer = _asked(fields)
    return " ".join(filter(None, (instruction, question.strip()))), answer


sharegpt = each(_sharegpt, "")
DIALOGUE_FORMATS = {
    "llava": Format(sharegpt, options=OPTIONS),
    "sharegpt": Format(sharegpt, options=OPTIONS),
    "avsd": AVSD,
    "videochat": Format(each(_videochat, "")),
}
