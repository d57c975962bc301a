"""A small package of stamps with noise as sounds, and the lines of the files made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from chatbridge.common.seeds import stream
from dataset_prep.stamps.records import Record

HEARD = [
    *("cow", "dog", "horse", "goat", "lion", "bear", "wolf", "frog", "toad", "duck"),
    *("crow", "bee", "seal", "fox", "mouse", "sheep", "pig", "cat", "hen", "lark"),
]
FISH = ("fish", "moth", "snail", "crab", "newt", "shrimp", "slug", "wasp", "perch", "squid")
SEEN_ONLY = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in FISH]


def write_stamp(folder: Path, key: str, caption: str, *, sound: int | None = None, settings: str = "") -> None:
    """A stamp; `sound` is the seed of its noise."""
    path = folder / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stream(0, key).integers(0, 256, (8, 12, 4), dtype=np.uint8)).save(path)
    path.with_suffix(".txt").write_text(f"{caption}\nfr.utf8=Une image.\n", encoding="utf-8")
    if settings:
        path.with_suffix(".dat").write_text(settings, encoding="utf-8")
    if sound is not None:
        length = 4000 + 60 * sound
        soundfile.write(str(path.with_suffix(".ogg")), 0.3 * stream(sound, "sound").standard_normal(length), 8000)


def lines(written: tuple[Path, Record], name: str) -> list[Record]:
    return [json.loads(line) for line in (written[0] / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def media(one: Record) -> set[str]:
    return {part["path"] for message in one["messages"] for part in message["content"] if "path" in part}
