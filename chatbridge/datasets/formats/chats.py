"""Dialogues as turns {"from": "system" | "human" | "gpt", "value": words}.

llava, sharegpt   [{"id", "image"?: "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                  {"from": "gpt", ...}]}]. Also "images", "videos", "audios" with lists of files, and records without
                  any. Who speaks may be called human or user; gpt, assistant, chatgpt, bing or bard; system. The
                  other spelling, "messages" with "role" and "content", is read too.
avsd              DSTC7's train_set4DSTC7-AVSD.json: {"dialogs": [{"image_id": "7UPGT", "caption", "summary", "dialog":
                  [{"question", "answer"}]}]}; `context` puts the caption or summary before the first question. In test
                  sets the last answer is __UNDISCLOSED__.
videochat         VideoChat: [{"video": "a/1.mp4", "QA": [{"i": instruction, "q", "a"}]}]; pictures come as "image".
                  Video-ChatGPT: [{"video_id": "v_k_ZXmr8pmrs", "q", "a"}].
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from chatbridge.common.errors import nearest
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.annotations import kind_of
from chatbridge.datasets.formats.entries import Entry, Fields, Format, Options, Wrong, entries
from chatbridge.datasets.formats.json_items import section

SPEAKERS = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "human"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "gpt"),
}
HIDDEN = "__UNDISCLOSED__"
Turn = dict[str, str]


def sharegpt(options: Options) -> Iterator[Entry]:
    """LLaVA's layout too: the same turns, and files by their names."""
    return entries(section(options.annotations, ""), _sharegpt)


def _sharegpt(value: Any) -> dict[str, Any]:
    fields = Fields(value)
    turns = [
        _turn(turn, number) for number, turn in enumerate(fields.items("conversations", "conversation", "messages"))
    ]
    files = {kind: fields.files(kind, f"{kind}s") for kind in MODALITIES.names()}
    name = {"_id": fields.name("id")} if "id" in fields.record else {}
    return {**name, "_files": {kind: found for kind, found in files.items() if found}, **dialogue(turns)}


def _turn(value: Any, number: int) -> Turn:
    try:
        fields = Fields(_one_spelling_of_speaker(value))
        speaker, words = fields.text("from", "role"), fields.text("value", "content")
    except Wrong as error:
        raise Wrong(f"turn {number}: {error}") from None
    if speaker not in SPEAKERS:
        guess = nearest(speaker, SPEAKERS)
        raise Wrong(
            f"turn {number}: 'from' is {speaker!r}, expected one of {', '.join(SPEAKERS)}"
            + (f"; did you mean {guess!r}?" if guess else "")
        )
    return {"from": SPEAKERS[speaker], "value": words}


def _one_spelling_of_speaker(turn: Any) -> Any:
    """Without "role" where "from" names the same speaker in the other spelling: human and user."""
    if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("from", "role")):
        return turn
    same = SPEAKERS.get(turn["from"]) == SPEAKERS.get(turn["role"]) is not None
    return {key: value for key, value in turn.items() if key != "role"} if same else turn


def dialogue(turns: list[Turn]) -> dict[str, Any]:
    """The fields of a dialogue; it is unanswered when nobody answers, or the last answer is empty."""
    answers = [turn["value"].strip() for turn in turns if turn["from"] == "gpt"]
    return {"conversations": turns, "_unanswered": not answers or not answers[-1]}


def rounds(pairs: list[tuple[str, str]]) -> list[Turn]:
    """Turns of (question, answer) pairs."""
    return [{"from": who, "value": words} for pair in pairs for who, words in zip(("human", "gpt"), pair)]


def avsd(options: Options) -> Iterator[Entry]:
    """One entry per dialogue; evaluation asks its last question with the others before it."""
    return entries(section(options.annotations, "dialogs"), partial(_avsd, context=options.context))


def _avsd(value: Any, context: tuple[str, ...]) -> dict[str, Any]:
    fields = Fields(value)
    pairs = [(one.text("question"), one.text("answer")) for one in map(Fields, fields.items("dialog"))]
    if not pairs:
        raise Wrong("'dialog' has no rounds")
    question, answer = pairs[-1]
    pairs[-1] = (question, "" if answer.strip() == HIDDEN else answer)
    told = " ".join(words for name in context if (words := fields.text(name).strip()) != HIDDEN)
    if told:
        pairs[0] = (f"{told}\n{pairs[0][0]}", pairs[0][1])
    name = fields.name("image_id")
    return {"_id": name, "_media": [name], **dialogue(rounds(pairs))}


def videochat(options: Options) -> Iterator[Entry]:
    """Both layouts, told apart by "QA"."""
    return entries(section(options.annotations, ""), _videochat)


def _videochat(value: Any) -> dict[str, Any]:
    fields = Fields(value)
    name = fields.name("video", "image", "video_id")
    if "QA" not in fields.record:
        return {"_id": name, "_media": [name], **dialogue(rounds([(fields.text("q"), fields.text("a"))]))}
    pairs = []
    for number, one in enumerate(fields.items("QA")):
        if not isinstance(one, dict):
            raise Wrong(f"QA {number} is {kind_of(one)}, expected an object with 'q' and 'a'")
        asked = Fields(one)
        told = asked.text("i").strip() if "i" in one else ""
        pairs.append((" ".join(filter(None, (told, asked.text("q").strip()))), asked.text("a")))
    return {"_id": name, "_media": [name], **dialogue(rounds(pairs))}


CHAT_FORMATS = {
    "llava": Format(sharegpt, ("unanswered",)),
    "sharegpt": Format(sharegpt, ("unanswered",)),
    "avsd": Format(avsd, ("context", "unanswered")),
    "videochat": Format(videochat, ("unanswered",)),
}
