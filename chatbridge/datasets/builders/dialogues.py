"""Dialogues in LLaVA's and MULTIS's JSON: {"video_id" | "image_id" | "image": ..., "conversations": [turns]}.

A turn is {"from": "human" | "gpt", "value": words}.

Tags `*-det` and `*-rea` use the first question and answer, `*-conv` the first eight turns. The media stand in the first
turn of the user, before its words; markers such as "<image>\\n" are removed from the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from chatbridge.conversation.messages import Media, Message, assistant, user
from chatbridge.conversation.text import remove_markers
from chatbridge.datasets.annotations import check_fields, kind_of
from chatbridge.datasets.builders._multis import MultisConfig, MultisDataset
from chatbridge.datasets.builders.base import BUILDERS

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
MOST_TURNS = {"det": 2, "rea": 2, "conv": 8}


@BUILDERS.register("dialogues")
class Dialogues(MultisDataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(MultisConfig):
        tasks: ClassVar[tuple[str, ...]] = ("det", "rea", "conv")

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
        if not any(ROLES[turn["from"]] == "assistant" for turn in turns[: MOST_TURNS[self.config.task]]):
            return "has no answer among the turns that are used"
        return None

    def messages(
        self, record: dict[str, Any], media: tuple[Media, ...], rng: np.random.Generator
    ) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        turns = [(ROLES[turn["from"]], turn["value"]) for turn in record["conversations"]][
            : MOST_TURNS[self.config.task]
        ]
        while turns and turns[-1][0] == "user":
            turns.pop()  # a last question without an answer teaches nothing
        messages = [] if turns and turns[0][0] == "user" else [user(*media)]
        for role, words in turns:
            parts = () if messages else media
            messages.append(user(*parts, remove_markers(words)) if role == "user" else assistant(words))
        return tuple(messages), (turns[-1][1],)


def _turn_fault(turn: dict[str, Any]) -> str | None:
    if turn["from"] not in tuple(ROLES):
        return f"'from' is {turn['from']!r}, expected human or gpt"
    return None if isinstance(turn["value"], str) else f"'value' is {kind_of(turn['value'])}, expected text"
