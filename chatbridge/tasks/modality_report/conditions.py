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
SOUND, FILM = "audio", "video"
SEED = 0  # of the exchange, the same in every evaluation


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
            found.append(Condition("shuffled", modality, having, donors))
        else:
            left_out[f"shuffled_{modality}"] = f"every question has the same {modality}"
    if both := tuple(index for index in readable if {SOUND, FILM} <= media[index].keys()):
        found.append(Condition("misaligned", SOUND, both))
    return found, left_out


def exchange(keys: Mapping[int, tuple[str, ...]], modality: str) -> dict[int, int]:
    """Question -> the question whose media it gets, never the same media; {} where all questions have the same.

    Questions with the same media get the same others, so each file is seen as often as before. Media are exchanged
    among questions with as many of them; where there is one such group of media alone, those of any other are taken.
    """
    first: dict[tuple[str, ...], int] = {}  # media -> the first question that has them
    for index in sorted(keys):
        first.setdefault(keys[index], index)
    if len(first) < 2:
        return {}
    donor_of: dict[tuple[str, ...], int] = {}
    for count in sorted({len(one) for one in first}):
        same = [one for one in first if len(one) == count]
        if len(same) == 1:
            others = [one for one in first if one != same[0]]
            chosen = others[seeds.number(SEED, f"shuffled {modality}", count) % len(others)]
            donor_of[same[0]] = first[chosen]
            continue
        order = permute(np.arange(len(same)), len(same), seeds.number(SEED, f"shuffled {modality}", count))
        ring = [same[at] for at in order]  # everyone gets the media of the next
        donor_of |= {one: first[ring[(at + 1) % len(ring)]] for at, one in enumerate(ring)}
    return {index: donor_of[one] for index, one in keys.items()}


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
