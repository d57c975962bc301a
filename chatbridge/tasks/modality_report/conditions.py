"""The conditions under which a modality report asks the questions of a task again.

    without_<m>       the media of modality m are removed
    shuffled_<m>      they are replaced by those of another question
    misaligned_audio  the audio of a video is moved by half its length; only for questions with a video and audio

A question without the modality is the same under a condition, and is not asked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Conversation, Media
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.order.permutation import permute
from chatbridge.processors.media_source import Rolled
from chatbridge.tasks.prompt import question_of

Kind = Literal["without", "shuffled", "misaligned"]
Keys = Mapping[str, tuple[str, ...]]  # modality -> what identifies each of its media items in a prompt, in order
FULL = "full"  # name of the condition with all media
AUDIO, VIDEO = "audio", "video"
SEED = 0  # of the exchange, the same in every evaluation
MOST_TRIED = 1000  # questions with which one of several media is exchanged once more, so that fewer stay in place


@dataclass(frozen=True)
class Condition:
    """One condition. donors: with kind "shuffled", question -> the question whose media it gets."""

    kind: Kind
    modality: str
    asked: tuple[int, ...]  # indices of the questions whose prompt differs from that with all media
    donors: Mapping[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.modality}"

    @property
    def digest(self) -> str:
        """Changes when any question is asked with other media."""
        content = f"{self.name} {self.asked} {sorted(self.donors.items())}"
        return hashlib.sha256(content.encode()).hexdigest()


def conditions(media: Sequence[Keys], readable: Sequence[int]) -> tuple[list[Condition], dict[str, str]]:
    """The conditions of a list of questions, and name -> reason for those that cannot be made.

    media     of every question
    readable  indices of the questions that can be answered with all media; the others keep their reason everywhere
    """
    found: list[Condition] = []
    left_out: dict[str, str] = {}
    for modality in sorted({name for index in readable for name in media[index]}):
        having = tuple(index for index in readable if modality in media[index])
        found.append(Condition("without", modality, having))
        donors = exchange({index: media[index][modality] for index in having}, modality)
        if donors:
            found.append(Condition("shuffled", modality, tuple(donors), donors))
        else:
            left_out[f"shuffled_{modality}"] = f"every question has the same {modality}"
    if both := tuple(index for index in readable if {AUDIO, VIDEO} <= media[index].keys()):
        found.append(Condition("misaligned", AUDIO, both))
    return found, left_out


def exchange(keys: Mapping[int, tuple[str, ...]], modality: str) -> dict[int, int]:
    """Question -> the question whose media it gets; {} where all questions have the same.

    Of several media of a question as few as possible stay in their place, and never all: without such others a question
    is left out. Questions with the same media get the same others, and of questions with as many media each file is
    seen as often as before; where there is one such group of media alone, those of any other are taken.
    """
    first: dict[tuple[str, ...], int] = {}  # media -> the first question that has them
    for index in sorted(keys):
        first.setdefault(keys[index], index)
    donor_of: dict[tuple[str, ...], int] = {}
    for count in sorted({len(one) for one in first}):
        same = [one for one in first if len(one) == count]
        number = seeds.number(SEED, f"shuffled {modality}", count)
        if len(same) == 1:
            others = [one for one in first if one != same[0]]
            others = others[number % max(1, len(others)) :] + others[: number % max(1, len(others))]
            chosen = min(others, key=lambda one: _kept(same[0], one), default=same[0])
            given = {same[0]: chosen}
        else:
            ring = [same[at] for at in permute(np.arange(len(same)), len(same), number)]
            given = dict(zip(ring, _without_kept(ring, [*ring[1:], ring[0]]), strict=True))
        donor_of |= {one: first[other] for one, other in given.items() if _kept(one, other) < count}
    return {index: donor_of[one] for index, one in keys.items() if one in donor_of}


def _without_kept(ring: list[tuple[str, ...]], others: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The media that each of the ring gets: `others`, exchanged in pairs as long as fewer media stay in their place."""
    for at, own in enumerate(ring):
        for step in range(1, min(len(ring), MOST_TRIED)):
            if not (stays := _kept(own, others[at])):
                break
            to = (at + step) % len(ring)
            is_own = ring[to] == others[at] or own == others[to]
            before, after = stays + _kept(ring[to], others[to]), _kept(own, others[to]) + _kept(ring[to], others[at])
            if after < before and not is_own:
                others[at], others[to] = others[to], others[at]
    return others


def _kept(own: tuple[str, ...], others: tuple[str, ...]) -> int:
    """How many media stay in their place with those of another question, which begin again where they are fewer."""
    return sum(one == others[at % len(others)] for at, one in enumerate(own))


def media_keys(dataset: Dataset, name: str, dropped: Sequence[str] = ()) -> list[Keys]:
    """The media in the prompt of every question; none where a question cannot be read.

    name     of the task, from which the random choices of the data set derive
    dropped  modalities that the task removes
    """
    return [dict(_keys(dataset, name, index, dropped)) for index in range(len(dataset))]


def _keys(dataset: Dataset, name: str, index: int, dropped: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        found: dict[str, list[str]] = {}
        for item in items_of(prompt_of(dataset, name, index)):
            if item.modality not in dropped:
                found.setdefault(item.modality, []).append(_key(item.ref))
    except MediaError:
        return
    yield from ((modality, tuple(keys)) for modality, keys in found.items())


def prompt_of(dataset: Dataset, name: str, index: int) -> Conversation:
    """The prompt of a question as the task `name` asks it. raises MediaError"""
    return question_of(dataset.record(index, seeds.stream(0, f"task/{name}", index)).conversation)[0]


def items_of(conversation: Conversation) -> Iterator[Media]:
    """The media that the user gives; images that the assistant drew are its own."""
    for message in conversation:
        yield from (part for part in message.parts if isinstance(part, Media))


def _key(ref: Any) -> str:
    if isinstance(ref, (bytes, Tensor)):
        content = ref if isinstance(ref, bytes) else ref.detach().cpu().contiguous().numpy().tobytes()
        return hashlib.sha256(content).hexdigest()
    return str(ref) if isinstance(ref, (str, Path, Rolled)) else repr(ref)
