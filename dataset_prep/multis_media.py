"""Which media of MULTIS are there, by the ids that lists use for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataset_prep.image_index import ImageIndex
from dataset_prep.media_jobs import SOUND_ENDINGS
from dataset_prep.multis_records import Find, FoldersByName


@dataclass(frozen=True)
class Media:
    """What is there of one kind; `find` gives the id to write for the id of a record, None when it is not there."""

    count: int
    find: Find


def coco(root: Path) -> Media:
    index = ImageIndex(root / "coco/images", prefer=("train2014", "train2017"))
    return Media(len(index), index.find)


def visual_genome(root: Path) -> Media:
    index = ImageIndex(root / "VG/images")
    return Media(len(index), index.find)


def msrvtt(root: Path) -> Media:
    frames = FoldersByName(root / "msrvtt/frames_fps4")
    return Media(len(frames), frames.find)


def audiocaps(root: Path) -> Media:
    sounds = FoldersByName(root / "audiocaps/audio_22050hz", SOUND_ENDINGS, by_youtube_id=True)
    return Media(len(sounds), sounds.find)


def audioset(root: Path) -> Media:
    """Clips with frames and sound; one of the two alone is not enough."""
    frames = FoldersByName(root / "audioset/frames_recons", by_youtube_id=True)
    sounds = FoldersByName(root / "audioset/audio_22050hz_recons", SOUND_ENDINGS)

    def find(name: str) -> str | None:
        seen = frames.find(name)
        return seen if seen is not None and sounds.find(seen) == seen else None

    return Media(min(len(frames), len(sounds)), find)


MEDIA: dict[str, Callable[[Path], Media]] = {
    "coco": coco,
    "visual_genome": visual_genome,
    "msrvtt": msrvtt,
    "audiocaps": audiocaps,
    "audioset": audioset,
}
