"""Recordings with the name of what is heard: the stamps' own sounds, and sonic-pi's samples of instruments.

A recording that several different things share (the rhea, the iguana, the giraffe and the wombat have one file) names
none of them and is left out. Of a class with several recordings whole recordings are held out; of one with a single
long recording its last part; of one with a short recording an altered copy, which is the weakest test of the three.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from chatbridge.common.errors import DataError
from dataset_prep.stamps.pictures import Stamp

ANIMAL, INSTRUMENT, OBJECT = "animal", "instrument", "thing"
# folders of stamps whose own sound is made by the thing; elsewhere it is speech, a cheer or a tune
FOLDERS = {
    "animals/": ANIMAL,
    "hobbies/music/": INSTRUMENT,
    "hobbies/camera": OBJECT,
    "household/": OBJECT,
    "naturalforces/": OBJECT,
    "seasonal/halloween/bat": ANIMAL,
    "seasonal/halloween/blackcat": ANIMAL,
    "seasonal/newyears/fireworks": OBJECT,
    "vehicles/emergency/firetruck": OBJECT,
}
# stamp -> what is heard, where the caption says more than one can hear
HEARD = {
    "animals/birds/rooster": "a rooster",
    "animals/birds/hen": "a hen",
    "animals/birds/heron_greatblue_flying": "a heron",
    "animals/mammals/bovines/sheep_lamb": "a lamb",
    "animals/mammals/pig_golden": "a pig",
    "animals/mammals/pig_golden2": "a pig",
    "hobbies/music/percussion/cymbal_crash": "a cymbal",
    "hobbies/music/percussion/drum_tomtom_floor": "a tom drum",
    "household/arttools/scissors_small_closed": "a pair of scissors",
    "household/arttools/scissors_small_open": "a pair of scissors",
    "household/kettle": "a kettle",
    "household/tools/mallet_metal": "a mallet",
    "seasonal/newyears/fireworks": "some fireworks",
}
# what is heard -> samples of sonic-pi
SAMPLES = {
    "a bass drum": r"bd_|drum_bass_|drum_heavy_kick|elec_(hollow|soft)_kick",
    "a snare drum": r"sn_|drum_snare_|elec_(filt_|hi_|lo_|mid_)?snare",
    "a tom drum": r"drum_tom_|elec_fuzz_tom",
    "a cymbal": r"drum_(cymbal|splash)_|elec_cymbal",
    "a tabla": r"tabla_|loop_tabla",
    "an electric guitar": r"guit_",
    "a bell": r"perc_bell|elec_bell|elec_chime",
    "a bass": r"bass_|glitch_bass",
    "a drum kit": r"loop_(amen|breakbeat|compus|mehackit|mika|safari)|drum_roll",
    "a record player": r"vinyl_",
    "a robot": r"mehackit_robot|glitch_robot",
    "a telephone": r"mehackit_phone",
    "a crow": r"misc_crow",
}
NOT_INSTRUMENTS = {"a record player": OBJECT, "a robot": OBJECT, "a telephone": OBJECT, "a crow": ANIMAL}
SHORTEST = 0.15  # seconds
LONG = 2.0  # seconds of a recording of which a part is held out
TRAINED_PART = 0.6  # of such a recording
HELD_OUT_SHARE = 0.25  # of the recordings of a class, at least one


@dataclass(frozen=True)
class Recording:
    """One file, or a part of one.

    name      what is heard, with its article: "a dog"
    group     animal, instrument or thing
    part      (start, end) as shares of the file
    held_out  "" for training; "recording", "section" or "altered": in what it differs from what was trained on
    """

    path: Path
    name: str
    group: str
    part: tuple[float, float] = (0.0, 1.0)
    held_out: str = ""

    @property
    def noun(self) -> str:
        return self.name.split(" ", 1)[1]

    @property
    def key(self) -> str:
        """A file name for copies, unique among the recordings."""
        place = f"{self.path.parent.name}_{self.path.stem}"
        return place if self.part == (0.0, 1.0) else f"{place}_{self.part[0]:.2f}"


def recordings(stamps: Iterable[Stamp], samples: Path | None) -> list[Recording]:
    """All recordings in a fixed order, without a split.

    samples   folder of sonic-pi's .flac files, or None
    """
    found = _without_shared([*_of_stamps(stamps), *(_of_samples(samples) if samples else ())])
    return [one for one in found if _seconds(one.path) >= SHORTEST]


def _of_stamps(stamps: Iterable[Stamp]) -> list[Recording]:
    found = {}
    for stamp in stamps:
        group = next((group for folder, group in FOLDERS.items() if stamp.key.startswith(folder)), None)
        if group and stamp.sound and stamp.name:
            found[stamp.sound] = Recording(stamp.sound, heard_name(stamp), group)
    return list(found.values())


def heard_name(stamp: Stamp) -> str:
    """What is heard when the stamp's own sound is played."""
    return HEARD.get(stamp.key, stamp.phrase)


def _of_samples(folder: Path) -> list[Recording]:
    found = []
    for path in sorted(folder.glob("*.flac")):
        for name, pattern in SAMPLES.items():
            if re.match(pattern, path.stem):
                found.append(Recording(path.absolute(), name, NOT_INSTRUMENTS.get(name, INSTRUMENT)))
                break
    return found


def _without_shared(found: Sequence[Recording]) -> list[Recording]:
    """The recordings whose samples no recording of another name has; of the same name the first one."""
    names: dict[str, set[str]] = {}
    content = {one.path: _content(one.path) for one in found}
    for one in found:
        names.setdefault(content[one.path], set()).add(one.name)
    kept: dict[str, Recording] = {}
    for one in found:
        if len(names[content[one.path]]) == 1:
            kept.setdefault(content[one.path], one)
    return list(kept.values())


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """(float32[samples, channels], Hz). raises DataError for a file that cannot be read"""
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a sound ({error}); install its package again") from error
    return samples, rate


def _content(path: Path) -> str:
    """A hash of the decoded samples: tags differ between copies of one recording."""
    samples, _ = read_sound(path)
    return hashlib.sha256(samples.tobytes()).hexdigest()


def _seconds(path: Path) -> float:
    return soundfile.info(str(path)).duration


def held_out(found: Sequence[Recording]) -> list[Recording]:
    """Every recording or part of one, with `held_out` set for those of the evaluation."""
    classes: dict[str, list[Recording]] = {}
    for one in found:
        classes.setdefault(one.name, []).append(one)
    return [part for name in sorted(classes) for part in _divided(classes[name])]


def _divided(same: Sequence[Recording]) -> list[Recording]:
    if len(same) == 1:
        return _parts(same[0])
    by_hash = sorted(same, key=lambda one: hashlib.sha256(f"held out {one.key}".encode()).hexdigest())
    count = max(1, round(HELD_OUT_SHARE * len(same)))
    test = [Recording(one.path, one.name, one.group, held_out="recording") for one in by_hash[:count]]
    return [*by_hash[count:], *test]


def _parts(one: Recording) -> list[Recording]:
    if _seconds(one.path) < LONG:
        return [one, Recording(one.path, one.name, one.group, held_out="altered")]
    first, last = (0.0, TRAINED_PART), (TRAINED_PART, 1.0)
    return [
        Recording(one.path, one.name, one.group, first),
        Recording(one.path, one.name, one.group, last, held_out="section"),
    ]
