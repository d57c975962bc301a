"""Dialogues in LLaVA's and MULTIS's JSON: {"video_id" | "image_id" | "image": ..., "conversations": [turns]}.

A turn is {"from": "human" | "gpt", "value": words}.

Tags `*-det` and `*-rea` use the first question and answer, `*-conv` the first eight turns. The media precede the words
of the first turn of the user; markers ("<image>", with or without line breaks) are removed from the words.

`format:` names a public layout instead (datasets/formats/chats.py): llava, sharegpt, avsd, videochat. Those use every
turn. Records of llava and sharegpt may hold any number of files of the tag's media, none included; several stand where
their markers are. A record whose markers and files differ in number cannot be used (_media_markers.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from chatbridge.config.schema import Range
from chatbridge.conversation.messages import Media, Message
from chatbridge.datasets.annotations import check_fields, kind_of
from chatbridge.datasets.builders._multis import MultisConfig, MultisDataset
from chatbridge.datasets.builders._turns import ROLES, roles_and_words, to_messages, unanswered, used_turns
from chatbridge.datasets.builders.base import BUILDERS
from chatbridge.datasets.formats.chats import CHAT_FORMATS
from chatbridge.datasets.formats.screening import Unanswered

MOST_TURNS = {"det": 2, "rea": 2, "conv": 8}  # of MULTIS, as published


@BUILDERS.register("dialogues")
class Dialogues(MultisDataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(MultisConfig):
        tasks: ClassVar[tuple[str, ...]] = ("det", "rea", "conv")
        formats: ClassVar = CHAT_FORMATS
        format: Literal["multis", "llava", "sharegpt", "avsd", "videochat"] = "multis"  # layout of the file
        max_turns: Annotated[int, Range(low=2)] | None = None  # turns used; null: multis as published, others all
        context: tuple[Literal["caption", "summary"], ...] = ()  # avsd: texts put before the first question
        unanswered: Unanswered = "skip"

        @property
        def turn_limit(self) -> int | None:
            return self.max_turns or (MOST_TURNS[self.task] if self.format == "multis" else None)

    config: Config

    def check(self, record: dict[str, Any]) -> str | None:
        fault = check_fields(record, ("conversations",))
        if fault is not None:
            return fault
        turns = record["conversations"]
        if not isinstance(turns, list):
            return f"'conversations' is {kind_of(turns)}, expected a list of turns"
        for number, turn in enumerate(turns):
            fault = check_fields(turn, ("from", "value")) or _turn_fault(turn)
            if fault is not None:
                return f"turn {number}: {fault}"
        used = used_turns(roles_and_words(turns), self.config.turn_limit, True, is_open=_is_open(record))
        return None if used else "has no answer among the turns that are used"

    def messages(
        self, record: dict[str, Any], media: tuple[Media, ...], rng: np.random.Generator
    ) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        messages = to_messages(
            roles_and_words(record["conversations"]),
            media,
            self.config.turn_limit,
            in_dialogue=self.config.task == "conv",
            is_named_once="_files" not in record,
            is_open=_is_open(record),
        )
        if _is_open(record):
            return unanswered(messages), ()
        return messages, (messages[-1].text,) if messages else ()


def _is_open(record: dict[str, Any]) -> bool:
    """Whether its last question has no answer; `unanswered: keep` makes a prompt of it."""
    return bool(record.get("_unanswered"))


def _turn_fault(turn: dict[str, Any]) -> str | None:
    if turn["from"] not in tuple(ROLES):
        return f"'from' is {turn['from']!r}, expected human or gpt"
    return None if isinstance(turn["value"], str) else f"'value' is {kind_of(turn['value'])}, expected text"
