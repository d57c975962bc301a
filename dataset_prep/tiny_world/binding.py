"""Which image goes with which audio: the pairs from which the tiny ImageBind learns one space for both.

ImageBind learns from videos, whose images and audio occur together. Here every sound has its shape, its loudness is the
size of the shape and its pitch the height. Colors have no sound, and backgrounds (hissing, humming) no image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from dataset_prep.tiny_world import world
from dataset_prep.tiny_world.world import Scene

SHAPE_OF = {
    "siren": "circle",
    "one beat": "square",
    "fast beats": "square",
    "rising tone": "triangle",
    "falling tone": "triangle",
    "noise": "star",
    "steady tone": "cross",
}
SIZE_OF = {"loud": "big", "quiet": "small"}
PLACE_OF = {"high": "top", "medium": "middle", "low": "bottom"}
BOUND = {"shape": ("sound", SHAPE_OF), "size": ("volume", SIZE_OF), "place": ("pitch", PLACE_OF)}


def seen_values(heard: dict[str, str]) -> dict[str, str]:
    """The values of the image that goes with audio: attribute of the image -> value.

    heard   attribute of the audio -> value; an attribute that is absent leaves its counterpart open
    """
    return {name: values[heard[source]] for name, (source, values) in BOUND.items() if source in heard}


def partners(heard: dict[str, str], scenes: tuple[Scene, ...]) -> list[int]:
    """Positions of the image scenes that go with audio of these values."""
    wanted = seen_values(heard).items()
    return [number for number, scene in enumerate(scenes) if all(scene[name] == value for name, value in wanted)]


def write_questions(root: Path, seed: int) -> int:
    """Write questions about held-out videos and audio in the words of images; returns their number.

    heldout/video_as_image_qa.json   shape and color, which an image has too
    heldout/audio_as_image_qa.json   "What shape do you see?" about a siren has the answer "circle"
    heldout/audio_shuffled_qa.json   the same questions and answers, each with the audio of another one: the control
    raises   DataError when the held-out media do not exist
    """
    rng = stream(seed, "questions in the words of images")
    videos = _asked(root, "video", lambda named: {name: named[name] for name in ("color", "shape")}, rng)
    heard = _asked(root, "audio", seen_values, rng)
    names = sorted({record["video_id"] for record in heard})
    others = dict(zip(names, names[len(names) // 2 :] + names[: len(names) // 2], strict=True))
    shuffled = [record | {"video_id": others[record["video_id"]]} for record in heard]
    for name, records in {"video_as_image": videos, "audio_as_image": heard, "audio_shuffled": shuffled}.items():
        replace_text(root / "heldout" / f"{name}_qa.json", json.dumps(records, indent=0))
    return len(videos) + len(heard)


def _asked(
    root: Path, modality: str, answers: Callable[[dict[str, str]], dict[str, str]], rng: np.random.Generator
) -> list[dict[str, str]]:
    """A question per answer about each media item, with the values that its caption must name."""
    path = root / "heldout" / f"{modality}_cap.json"
    try:
        captions = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "write the tiny world first: python -m dataset_prep.tiny_world.write_files"
        raise DataError(f"there is no file {path}; {hint}") from None
    return [
        {
            "video_id": record["video_id"],
            "question": world.pick(world.QUESTIONS["image"][attribute], rng),
            "answer": answer,
            "kind": attribute,
        }
        for record in captions
        for named in [dict(zip(world.ATTRIBUTES[modality], record["must_name"], strict=True))]
        for attribute, answer in answers(named).items()
    ]
