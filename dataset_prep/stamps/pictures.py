"""The pictures of Debian's package `tuxpaint-stamps-default`, with caption, name, kind and split.

A stamp `frog.png` (or `.svg`) has its caption in the first line of `frog.txt` (the following lines are translations),
settings in `frog.dat`, its own sound in `frog.ogg` and a spoken caption in `frog_desc.ogg`. The files are read where
the package put them: their licence is the GPL-2, so none of them is part of this repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from chatbridge.common.errors import DataError
from dataset_prep.stamps.splits import TRAIN, split_of, things

# Signs that stand for something that cannot be seen: a letter, coin or chess piece that no training picture shows has
# no name that one could infer, and the rules and values in their captions are not in the picture.
LEFT_OUT = ("symbols/alphabets/", "symbols/math/", "symbols/chess/", "symbols/money/", "symbols/music/")

# folder -> (category, kind). The longest matching folder counts; a stamp outside of them has neither.
KINDS: dict[str, tuple[str, str]] = {
    "animals": ("animal", ""),
    "animals/birds": ("animal", "bird"),
    "animals/fish": ("animal", "sea animal"),
    "animals/shellfish": ("animal", "sea animal"),
    "animals/mammals/aquatic": ("animal", "sea animal"),
    "animals/insects": ("animal", "bug"),
    "animals/mammals": ("animal", "mammal"),
    "animals/marsupials": ("animal", "mammal"),
    "clothes": ("clothing", ""),
    "clothes/hats": ("clothing", "hat"),
    "food": ("food", ""),
    "food/fruit": ("food", "fruit"),
    "food/vegetables": ("food", "vegetable"),
    "hobbies/music": ("musical instrument", ""),
    "household/tools": ("tool", ""),
    "household/arttools": ("tool", ""),
    "household/dishes": ("kitchenware", ""),
    "household/electronics": ("device", ""),
    "people": ("person", ""),
    "people/body_parts": ("", ""),
    "plants": ("plant", ""),
    "plants/flowers": ("plant", "flower"),
    "plants/trees": ("plant", "tree"),
    "space": ("space", ""),
    "space/planets": ("space", "planet"),
    "town/cartoon": ("building", ""),
    "town/houses": ("building", "house"),
    "town/monuments": ("building", "monument"),
    "town/roadsigns": ("road sign", ""),
    "vehicles": ("vehicle", ""),
    "vehicles/ship": ("vehicle", "ship"),
    "sports": ("sport", ""),
}
ARTICLES = ("a", "an", "the", "some")
COLLECTIONS = {"pair", "cluster", "bunch", "head", "string", "cup", "glass", "tube", "couple", "quarter"}
MOST_UNNAMED = 3  # words of a caption without an article that still is one: "Circus tent."
MOST_WORDS = 4  # of a name, without its article


@dataclass(frozen=True)
class Stamp:
    """One picture.

    path        file of the picture; a rendered or mirrored copy has the path of the copy
    key         path below the folder of stamps, without its ending; the same for copies
    caption     first line of its text file
    article     of the name: "a", "an", "the", "some"
    name        noun phrase of the caption ("great blue heron"); "" if the caption is not one
    category    "animal", "food" ..., and kind within it ("bird"); "" where the folder does not tell
    thing       what may not be on both sides of a split
    sound       its own sound, or None
    spoken      the caption spoken in English, or None
    can_mirror  whether the picture may be mirrored without becoming wrong
    altered     how `path` differs from the picture of the package: "", "mirrored" or "closer"
    """

    path: Path
    key: str
    caption: str
    article: str
    name: str
    category: str
    kind: str
    thing: str
    split: str
    sound: Path | None
    spoken: Path | None
    can_mirror: bool
    altered: str = ""

    @property
    def sentence(self) -> str:
        """The first sentence of the caption."""
        return re.split(r"(?<=[.!?])\s", self.caption)[0]

    @property
    def is_captioned(self) -> bool:
        """Whether the caption says what is in the picture; "Nun stands for nisht or nothing." does not."""
        return bool(self.name) or len(self.caption.split()) <= MOST_UNNAMED

    @property
    def head(self) -> str:
        """The noun of the name: "heron" of "great blue heron", "cherries" of "pair of cherries"; "" without a name."""
        before, of, after = self.name.partition(" of ")
        part = after if of and before.split()[-1] in COLLECTIONS else before
        return re.split(r" in | on | at | for | with | playing ", part)[0].split()[-1] if part else ""

    @property
    def phrase(self) -> str:
        """The name with its article: "a great blue heron"."""
        return f"{self.article} {self.name}".strip()


def read_stamps(folder: Path, rendered: Path | None = None) -> list[Stamp]:
    """All stamps with a caption, sorted by path. raises DataError if the folder has none

    folder     of the package: /usr/share/tuxpaint/stamps
    rendered   folder with one .png per .svg (stamps.svg), or None: stamps that exist as .svg only are left out
    """
    found = _pictures(folder, rendered)
    if not found:
        raise DataError(
            f"{folder}: has no stamps (.png with a .txt beside it); install the Debian package "
            "tuxpaint-stamps-default, or run `python -m dataset_prep.stamps.fetch`, which unpacks it without root"
        )
    captions = {key: _caption(folder / f"{key}.txt") for key in found}
    thing_of = things(captions)
    stamps = [_stamp(folder, key, found[key], captions[key], thing_of[key]) for key in sorted(found) if captions[key]]
    heard = {stamp.thing for stamp in stamps if stamp.sound}
    return [replace(stamp, split=TRAIN if stamp.thing in heard else split_of(stamp.thing)) for stamp in stamps]


def _pictures(folder: Path, rendered: Path | None) -> dict[str, Path]:
    """Key -> picture: the .png of the package, or the rendered .svg."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if not key.startswith(LEFT_OUT):
            found[key] = path
    for path in sorted(folder.rglob("*.svg")) if rendered else ():
        key = path.relative_to(folder).with_suffix("").as_posix()
        copy = Path(rendered or "", f"{key}.png")
        if not key.startswith(LEFT_OUT) and key not in found and copy.exists():
            found[key] = copy
    return found


def _caption(path: Path) -> str:
    """The first line of a text file; "" without one."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return " ".join(next(lines, "").split())
    except FileNotFoundError:
        return ""


def _stamp(folder: Path, key: str, path: Path, caption: str, thing: str) -> Stamp:
    article, name = noun_phrase(caption)
    category, kind = _kind(key)
    own = [folder / f"{key}{ending}" for ending in (".ogg", ".wav")]
    spoken = folder / f"{key}_desc.ogg"
    settings = _caption_lines(folder / f"{key}.dat")
    return Stamp(
        path=path.absolute(),
        key=key,
        caption=caption,
        article=article,
        name=name,
        category=category,
        kind=kind,
        thing=thing,
        split=TRAIN,
        sound=next((file.absolute() for file in own if file.exists()), None),
        spoken=spoken.absolute() if spoken.exists() else None,
        can_mirror="nomirror" not in settings,
    )


def _caption_lines(path: Path) -> set[str]:
    """The words of a settings file."""
    return set(path.read_text(encoding="utf-8", errors="replace").split()) if path.exists() else set()


def noun_phrase(caption: str) -> tuple[str, str]:
    """(article, name) of a caption that names a thing; ("", "") for a sentence, a call or a long explanation.

    "A great blue heron." is ("a", "great blue heron"), "An albino peahen (a female peafowl)." ("an", "albino peahen").
    """
    first = re.split(r"[.!?,(—–]|\s-\s| called | also | is | are | that | who ", caption)[0]
    words = re.sub(r"[“”\"'‘’]", "", first).split()
    if not words or words[0].lower() not in ARTICLES or not 1 < len(words) <= MOST_WORDS + 1:
        return "", ""
    return words[0].lower(), " ".join(words[1:])


def _kind(key: str) -> tuple[str, str]:
    """Category and kind of the longest folder that contains the key."""
    inside = [folder for folder in KINDS if key.startswith(f"{folder}/")]
    return KINDS[max(inside, key=len)] if inside else ("", "")
