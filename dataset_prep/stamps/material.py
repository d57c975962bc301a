"""Pictures and sounds of the two packages, divided into those for training and those that are held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dataset_prep.stamps import clips, sounds, talk
from dataset_prep.stamps.altered_pictures import closer, mirrored
from dataset_prep.stamps.pictures import Stamp, read_stamps
from dataset_prep.stamps.splits import TEST, TRAIN, VALIDATION
from dataset_prep.stamps.svg import render
from dataset_prep.stamps.talk import Known

MOST_CLIPS = 16  # of one class in training, so that 13 bass drums do not outweigh one dog


@dataclass
class Material:
    """What the files are made of.

    train      pictures for training, with altered copies
    unseen     validation and test -> pictures of things that are not in training
    paired     what is heard -> training pictures of what makes the sound
    mirrored   what is heard -> held-out pictures of it: mirrored copies, which `train` lacks of these things
    heard      sounds for training
    held_out   sounds of the same names that are not in `heard`, each with the recording it is from
    notes      what is missing, and how to get it
    """

    train: list[Stamp]
    unseen: dict[str, list[Stamp]]
    paired: dict[str, list[Path]]
    mirrored: dict[str, list[Path]]
    heard: list[Known]
    held_out: list[tuple[Known, sounds.Recording]]
    notes: list[str] = field(default_factory=list)


def collect(stamps_folder: Path, samples: Path | None, out: Path) -> Material:
    """Read the packages and write the copies below `out`/media. raises DataError without stamps"""
    media, notes = out / "media", []
    if samples is not None and not samples.is_dir():
        samples, notes = None, [f"{samples}: there are no samples; install the Debian package sonic-pi-samples"]
    _, reason = render(stamps_folder, media / "rendered")
    stamps = read_stamps(stamps_folder, media / "rendered")
    own = [stamp for stamp in stamps if stamp.split == TRAIN]
    parts = sounds.held_out(sounds.recordings(stamps, samples))
    names = {one.name for one in parts}
    both = [stamp for stamp in own if stamp.name and sounds.heard_name(stamp) in names and stamp.can_mirror]
    keys = {stamp.key for stamp in both}
    train = [*own, *closer(own, media), *mirrored([one for one in own if one.key not in keys], media)]
    known = [(_known(one, path), one) for one in parts for path in clips.clips(one, media / "clips")]
    return Material(
        train=train,
        unseen={split: [one for one in stamps if one.split == split] for split in (VALIDATION, TEST)},
        paired=_of_stamps([one for one in train if one.key in keys]),
        mirrored=_of_stamps(mirrored(both, media)),
        heard=_capped(one for one, recording in known if not recording.held_out),
        held_out=[(one, recording) for one, recording in known if recording.held_out],
        notes=[*notes, *([reason] if reason else [])],
    )


def _known(one: sounds.Recording, path: Path) -> Known:
    """A clip of a recording."""
    variant = path.stem.rpartition("_")[2]
    return Known(f"{one.key} {variant}", "audio", path, one.name, talk.GROUP_NOUNS[one.group], one.group)


def _of_stamps(stamps: Iterable[Stamp]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for stamp in stamps:
        found.setdefault(sounds.heard_name(stamp), []).append(stamp.path)
    return found


def _capped(known: Iterable[Known]) -> list[Known]:
    """At most MOST_CLIPS of each name, evenly over its recordings."""
    by_name: dict[str, list[Known]] = {}
    for one in known:
        by_name.setdefault(one.name, []).append(one)
    return [one for same in by_name.values() for one in same[:: -(-len(same) // MOST_CLIPS)]]


def by_name(known: Iterable[Known]) -> dict[str, list[Path]]:
    """Name -> files."""
    found: dict[str, list[Path]] = {}
    for one in known:
        found.setdefault(one.name, []).append(one.path)
    return found
