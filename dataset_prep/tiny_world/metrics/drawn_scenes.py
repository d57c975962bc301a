"""Whether an answer shows what was asked for, judged from its images alone; captions are never read.

The questions are those of heldout/textbind.jsonl (`write_textbind`).

    shown     the answer has as many images as were asked for
    placed    its image is in the answer where the wording of the request wants it
    met       share of the asked images that show all that the request names; an image that is missing shows nothing
    told      the text about the image is true of it; only answers with such a text
    drawn     an image where none was asked for
    right     the answer to such a question is correct
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.conversation.messages import Drawing, Part, Text
from chatbridge.tasks.drawn_answers import image_of
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from dataset_prep.tiny_world import world
from dataset_prep.tiny_world.drawing_talk import Wish
from dataset_prep.tiny_world.seen_scene import seen_scene
from dataset_prep.tiny_world.world import Scene
from dataset_prep.tiny_world.write_textbind import wanted_of

VALUES = frozenset(value for options in world.ATTRIBUTES["image"].values() for value in options)
Scenes = Sequence[Scene | None]


@METRICS.register("drawn_scenes")
class DrawnScenesScores(Metric):
    """Takes items with the details `wanted` and `placement`, and reads the images that their lines name."""

    needs = frozenset()

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @property
    def names(self) -> tuple[str, ...]:
        return ("met", "shown", "placed", "told", "drawn", "right")

    def scores(self, items: Sequence[Item]) -> list[Score]:
        found = [_scores(item) for item in items]
        return [mean_score(name, [one.get(name) for one in found]) for name in self.names]


def _scores(item: Item) -> dict[str, float]:
    """Those of one answer; an unreadable question that asks for images has none of them."""
    if item.problem is not None:
        return dict.fromkeys(("shown", "placed", "met") if item.details.get("wanted", True) else ("right",), 0.0)
    return scores_of(parts_of(item), item.prediction, item.references, item.details)


def parts_of(item: Item) -> tuple[Part, ...]:
    """The answer with its images, uint8[3, H, W]; None where nothing was drawn."""
    folder = item.folder or Path()
    return tuple(
        Text(part["text"]) if part["type"] == "text" else Drawing(part.get("caption", ""), image_of(folder, part))
        for part in item.row.get("parts", ())
    )


def scores_of(
    parts: Sequence[Part], text: str, references: Sequence[str], details: Mapping[str, Any]
) -> dict[str, float]:
    """The scores of an answer; parts are those of the whole answer, text is its text."""
    wishes, scenes = wanted_of(details["wanted"]), scenes_of(parts)
    if not wishes:
        return {"drawn": float(bool(scenes)), "right": float(is_right(text, references))}
    found = {
        "shown": float(len(scenes) == len(wishes)),
        "placed": float(placement_of(parts) == details["placement"]),
        "met": sum(met(wishes, scenes)) / len(wishes),
    }
    told = is_true(text, scenes)
    return found if told is None else {**found, "told": float(told)}


def scenes_of(parts: Sequence[Part]) -> tuple[Scene | None, ...]:
    """What each image of an answer shows; None where no scene can be seen, or nothing was drawn."""
    drawn = (part.ref for part in parts if isinstance(part, Drawing))
    return tuple(seen_scene(image) if isinstance(image, Tensor) else None for image in drawn)


def met(wishes: Sequence[Wish], scenes: Scenes) -> list[bool]:
    """Whether the k-th image shows what the k-th wish names."""
    return [wish.is_met_by(scenes[k] if k < len(scenes) else None) for k, wish in enumerate(wishes)]


def placement_of(parts: Sequence[Part]) -> str:
    """Where the one image of an answer stands: "first", "middle", "last"; "two" for two images; "" for none."""
    drawn = [isinstance(part, Drawing) for part in parts]
    if sum(drawn) != 1:
        return {2: "two"}.get(sum(drawn), "")
    return "last" if drawn[-1] else "first" if drawn[0] else "middle"


def is_true(text: str, scenes: Scenes) -> bool | None:
    """Whether a text about the one image of an answer names what it shows; None without one image or such a text."""
    said = re.search(r" (\w+)\.$", text)
    if len(scenes) != 1 or said is None or said[1] not in VALUES:
        return None
    return scenes[0] is not None and said[1] in scenes[0].values


def is_right(text: str, references: Sequence[str]) -> bool:
    """Whether a text names exactly the values that one of the correct answers names."""

    def named(words: str) -> frozenset[str]:
        return VALUES & set(re.findall(r"\w+", words.lower()))

    return any(named(text) == named(right) for right in references)
