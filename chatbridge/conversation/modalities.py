"""The kinds of media: a modality is a registered value, and no other module lists them.

    # my_lab/modalities.py, with `plugins: [my_lab]` in the YAML
    from chatbridge.conversation.modalities import MODALITIES, Endings, Modality

    MODALITIES.register(Modality("touch", "touch image", Endings.for_all("touch.png", "touch.npy"), piece="view"))

From then on `touch` is a key of model.routes, a type of a part in a data file, `<touch>` a marker in the text of public
layouts, and files with these endings are touch images in a chat, in tar shards and in folders of media. An encoder that
reads it names it in `modalities` and gives it a processor (`EncoderConfig.processor`).

Depth, thermal and imu come with ChatBridge, for ImageBind. A plugin may register its own value under one of these
names, as plugins did before they came: it takes the place of ours.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.config.registry import import_file, plugin_folder

RESERVED = ("text", "drawing", "txt", "json")  # other types of parts, and the text members of tar shards
NAME, MARKER = re.compile(r"[a-z][a-z0-9_]*"), re.compile(r"<([A-Za-z][\w-]*)>")
ENDING = re.compile(r"[^./\\\s]+(\.[^./\\\s]+)*")


@dataclass(frozen=True)
class Endings:
    """Endings of file names by their use, without the leading dot; `depth.png` is one too. The longest match counts.

    upload    a file sent in a chat is of this modality; the first few are the examples of messages
    members   files in tar shards; of two files of a sample the one whose ending is listed first is used
    lookup    appended in this order to an id of an annotation. Here modalities may share endings: the annotation states
              the modality
    """

    upload: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    lookup: tuple[str, ...] = ()

    @classmethod
    def for_all(cls, *endings: str) -> Endings:
        """The same endings for every use."""
        return cls(endings, endings, endings)


@dataclass(frozen=True)
class Modality:
    """One kind of media.

    name        the key in YAML and data files: `depth`
    noun        the name in messages and pages, with its plural (default: the noun with an s)
    marker      marks an item in the text of public layouts (default: `<depth>`)
    piece       the word for one of the pieces of an item: frame, clip, crop
    in_prompt   the word for an item in the question that is asked when a file comes without one (default: the noun)
    mime        first part of the MIME types of its files, where the content of an uploaded file decides between
                modalities that share a container, as for video and audio; None: the ending alone decides
    in_folder   whether an item may be a folder of its pieces instead of a file, as frames are for a video
    """

    name: str
    noun: str
    endings: Endings = field(default_factory=Endings)
    plural: str = ""
    marker: str = ""
    piece: str = "piece"
    in_prompt: str = ""
    mime: str | None = None
    in_folder: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "plural", self.plural or f"{self.noun}s")
        object.__setattr__(self, "in_prompt", self.in_prompt or self.noun)
        object.__setattr__(self, "marker", self.marker or f"<{self.name}>")
        if fault := _fault(self):
            raise ValueError(f"modality {self.name!r}: {fault}")

    @property
    def tag(self) -> str:
        """The word in its marker."""
        return self.marker[1:-1]

    @property
    def pieces(self) -> str:
        """The plural of `piece`."""
        return f"{self.piece}s"


class Modalities:
    """The registered modalities, in the order of their registration."""

    kind = "modality"  # the word messages use, as for registries of parts

    def __init__(self) -> None:
        self._registered: dict[str, Modality] = {}

    def register(self, modality: Modality) -> Modality:
        """Add a modality; registering the same value again changes nothing, and another value of a name in
        REPLACEABLE takes the place of ours.

        raises   ValueError when its name, its marker or one of its endings is taken, with the modality that has it
        """
        if self._registered.get(modality.name) != modality:
            for other in self._registered.values():
                is_ours = other.name == modality.name and other in REPLACEABLE
                if not is_ours and (conflict := _conflict(modality, other)):
                    raise ValueError(f"modality {modality.name!r}: {conflict}")
            self._registered[modality.name] = modality
        return modality

    def adopt(self, modalities: Iterable[Modality]) -> None:
        """Register the modalities of another process, in a worker that was not forked from it."""
        for modality in modalities:
            self.register(modality)

    def names(self) -> tuple[str, ...]:
        return tuple(self._registered)

    def __iter__(self) -> Iterator[Modality]:
        return iter(tuple(self._registered.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._registered

    def get(self, name: str) -> Modality:
        """raises   ConfigError for an unknown name, with the nearest one"""
        if name not in self._registered:
            message = f"there is no modality named {name!r}"
            raise ConfigError([Problem("", message, allowed=self.names(), nearest=nearest(name, self.names()))])
        return self._registered[name]

    def noun(self, name: str) -> str:
        """The noun of a modality; an unregistered name is returned unchanged."""
        return self._registered[name].noun if name in self._registered else name

    def plural(self, name: str) -> str:
        return self._registered[name].plural if name in self._registered else name

    def tags(self) -> dict[str, str]:
        """word in a marker -> name of the modality"""
        return {modality.tag: modality.name for modality in self}

    def of_file(self, file_name: str) -> Modality | None:
        """The modality whose upload ending a file name has, the longest ending first; None when no ending fits."""
        name = file_name.lower()
        fitting = ((len(end), one) for one in self for end in one.endings.upload if name.endswith(f".{end}"))
        return max(fitting, key=lambda pair: pair[0], default=(0, None))[1]

    def add_plugin(self, package: str) -> None:
        """Import `package/modalities.py`, which registers its own; a plugin without that file has none.

        raises   ConfigError when the package cannot be found or must not be run, or its modalities cannot be added
        """
        folder = plugin_folder(package)
        if not any((folder / file).is_file() for file in ("modalities.py", "modalities/__init__.py")):
            return
        import_file(f"{package}.modalities", f"{package}.modalities", "plugins")


def _fault(one: Modality) -> str | None:
    """The first mistake in a modality by itself; None when there is none."""
    if not NAME.fullmatch(one.name):
        return "a name has lower-case letters, digits and underscores, and begins with a letter"
    if one.name in RESERVED:
        return f"the name is reserved ({', '.join(RESERVED)} have another meaning in data files)"
    if not MARKER.fullmatch(one.marker):
        return f"the marker {one.marker!r} is not a word in angle brackets, such as <{one.name}>"
    if not one.noun.strip():
        return "the noun is empty; give the name shown to users, such as 'depth map'"
    for use in ("upload", "members", "lookup"):
        if isinstance(getattr(one.endings, use), str):  # its letters would be endings
            return f"`{use}` endings are one string, {getattr(one.endings, use)!r}; write a tuple, such as ('npy',)"
        for ending in getattr(one.endings, use):
            if not ENDING.fullmatch(ending):
                return f"{ending!r} is not an ending of a file name; write it without the leading dot, such as 'npy'"
            if ending != ending.lower() and use != "lookup":
                return f"the ending {ending!r} has capitals; case does not count in {use} endings, use lower case"
    texts = [ending for ending in one.endings.members if ending in RESERVED]
    return f"the ending {texts[0]!r} is reserved for the text of a sample in tar shards" if texts else None


def _conflict(new: Modality, old: Modality) -> str | None:
    """The property of `new` that `old` has already, and what to do; None when there is none."""
    if new.name == old.name:
        return "the name is taken; choose another one"
    if new.tag == old.tag:
        return f"the marker {new.marker} is taken by {old.name!r}; choose another one, such as <{new.name}>"
    for use in ("upload", "members"):
        for ending in getattr(new.endings, use):
            if ending in getattr(old.endings, use) or (use == "upload" and new.mime is None and _is_mime(ending, old)):
                return (
                    f"the ending .{ending} is taken by {old.name!r} ({use}), and a name must determine the modality; "
                    f"use a longer ending such as .{new.name}.{ending}, or leave it out of `{use}`"
                )
    return None


def _is_mime(ending: str, other: Modality) -> bool:
    """Whether files with this ending have the other modality's MIME type."""
    found = mimetypes.guess_type(f"x.{ending}")[0] if "." not in ending else None
    return found is not None and found.partition("/")[0] == other.mime


REPLACEABLE: list[Modality] = []  # ours that a plugin may define anew
MODALITIES = Modalities()
IMAGE = MODALITIES.register(
    Modality(
        "image",
        "image",
        Endings(
            upload=("jpg", "png", "webp", "jpeg"),
            members=("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif"),
            lookup=("jpg", "jpeg", "JPEG", "png", "webp"),
        ),
        piece="crop",
        mime="image",
    )
)
VIDEO = MODALITIES.register(
    Modality(
        "video",
        "video",
        Endings(
            upload=("mp4", "webm", "mov", "mkv", "avi"),
            members=("mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv"),
            lookup=("mp4", "webm", "mkv", "avi", "mov"),
        ),
        piece="frame",
        mime="video",
        in_folder=True,
    )
)
AUDIO = MODALITIES.register(
    Modality(
        "audio",
        "audio",
        Endings(
            upload=("wav", "mp3", "flac", "ogg", "m4a"),
            members=("wav", "flac", "mp3", "ogg", "m4a", "aac", "opus", "oga", "wma", "aif", "aiff", "au"),
            lookup=("wav", "mp3", "mkv", "flac", "m4a", "ogg", "mp4"),  # mkv and mp4: the audio track of a video
        ),
        plural="audio",
        in_prompt="sound",  # the everyday word, for questions to language models
        piece="clip",
        mime="audio",
    )
)
DEPTH = MODALITIES.register(
    Modality(
        "depth",
        "depth map",
        Endings(
            upload=("depth.png", "depth.npy", "depth.tiff", "depth.tif"),
            members=("depth.png", "depth.npy", "depth.tiff", "depth.tif"),
            lookup=("depth.png", "depth.npy", "png", "npy", "tiff", "tif"),
        ),
    )
)
THERMAL = MODALITIES.register(
    Modality(
        "thermal",
        "thermal image",
        Endings(
            upload=("thermal.png", "thermal.jpg", "thermal.npy", "thermal.jpeg", "thermal.tiff", "thermal.tif"),
            members=("thermal.png", "thermal.jpg", "thermal.npy", "thermal.jpeg", "thermal.tiff", "thermal.tif"),
            lookup=("thermal.png", "thermal.jpg", "thermal.npy", "png", "jpg", "jpeg", "npy", "tiff", "tif"),
        ),
    )
)
IMU = MODALITIES.register(
    Modality(
        "imu",
        "motion recording",
        Endings(
            upload=("imu.csv", "imu.npy"), members=("imu.csv", "imu.npy"), lookup=("imu.csv", "imu.npy", "csv", "npy")
        ),
        in_prompt="motion",
        piece="clip",
    )
)
REPLACEABLE += (DEPTH, THERMAL, IMU)
PLAYED = (IMAGE, VIDEO, AUDIO)  # those that a page of a browser shows or plays
BUILT_IN = (*PLAYED, DEPTH, THERMAL, IMU)  # those that come with ChatBridge
