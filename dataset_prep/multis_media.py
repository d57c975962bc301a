"""The existing media of MULTIS, by the ids of its annotation files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataset_prep.image_index import ImageIndex
from dataset_prep.media_jobs import AUDIO_ENDINGS
from dataset_prep.multis_records import Find, FoldersByName


@dataclass(frozen=True)
class AvailableMedia:
    """The media of one set; `find` returns the id to write for the id of a record, None if there is no file."""

    count: int
    find: Find


def coco(root: Path) -> AvailableMedia:
    index = ImageIndex(root / "coco/images", prefer=("train2014", "train2017"))
    return AvailableMedia(len(index), index.find)


def visual_genome(root: Path) -> AvailableMedia:
    index = ImageIndex(root / "VG/images")
    return AvailableMedia(len(index), index.find)


def msrvtt(root: Path) -> AvailableMedia:
    frames = FoldersByName(root / "msrvtt/frames_fps4")
    return AvailableMedia(len(frames), frames.find)


def audiocaps(root: Path) -> AvailableMedia:
    audio = FoldersByName(root / "audiocaps/audio_22050hz", AUDIO_ENDINGS, by_youtube_id=True)
    return AvailableMedia(len(audio), audio.find)


def audioset(root: Path) -> AvailableMedia:
    """Videos with both frames and audio."""
    frames = FoldersByName(root / "audioset/frames_recons", by_youtube_id=True)
    audio = FoldersByName(root / "audioset/audio_22050hz_recons", AUDIO_ENDINGS)

    def find(name: str) -> str | None:
        visual = frames.find(name)
        return visual if visual is not None and audio.find(visual) == visual else None

    return AvailableMedia(min(len(frames), len(audio)), find)


MEDIA: dict[str, Callable[[Path], AvailableMedia]] = {
    "coco": coco,
    "visual_genome": visual_genome,
    "msrvtt": msrvtt,
    "audiocaps": audiocaps,
    "audioset": audioset,
}
