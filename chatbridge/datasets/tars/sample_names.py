"""From the names in a tar to its samples: where a key ends, and which files belong to no sample.

The key of a file ends before its last ending: `Track 2.0 (Clean).jpg` is the image of `Track 2.0 (Clean)`. Other tools
end keys at the first dot, so a key with a dot may also extend a shorter one: `a.seg.png` beside `a.jpg` and `a.txt` is
not a separate sample, but a further file of `a`. The rule: a key with a dot that has only media, or only text, and
extends another key of the tar, is not a sample. `a.caption.txt` and `a.jpg.txt` are the text of `a` if `a` has none.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

from chatbridge.common.file_names import is_hidden
from chatbridge.conversation.modalities import BUILT_IN, MODALITIES, Modality

TEXTS = ("txt", "json")  # each is an ending, and the name of its slot
CAPTION_WORDS = (b"caption", b"captions", b"text")


@dataclass(frozen=True)
class IndexColumns:
    """The files a sample may have: one of each modality and of each kind of text. An index has a column per slot.

    endings   per slot, in order of preference
    mark      part of the name of index files if the slots differ from those of ChatBridge's own modalities
    """

    endings: tuple[tuple[str, tuple[str, ...]], ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.endings)

    @cached_property
    def of(self) -> dict[str, tuple[int, int]]:
        """ending -> its slot, and its rank within the slot"""
        return {end: (slot, rank) for slot, (_, ends) in enumerate(self.endings) for rank, end in enumerate(ends)}

    @cached_property
    def compound(self) -> tuple[str, ...]:
        """Endings with a dot inside, the longest first."""
        return tuple(sorted((ending for ending in self.of if "." in ending), key=len, reverse=True))

    @cached_property
    def texts(self) -> tuple[int, ...]:
        return tuple(map(self.names.index, TEXTS))

    @cached_property
    def media(self) -> tuple[int, ...]:
        return tuple(slot for slot in range(len(self.names)) if slot not in self.texts)

    @cached_property
    def of_a_caption(self) -> frozenset[bytes]:
        """Last parts of a key whose text belongs to the sample named by the parts before."""
        return frozenset((*CAPTION_WORDS, *(end.encode() for slot in self.media for end in self.endings[slot][1])))

    @cached_property
    def mark(self) -> str:
        media = self.endings[: -len(TEXTS)]
        if media == _of_media(BUILT_IN):
            return ""
        return f".{hashlib.blake2b(repr(media).encode(), digest_size=4).hexdigest()}"


def index_columns() -> IndexColumns:
    """The slots of the registered modalities that have files in tar shards."""
    return _slots(_of_media(MODALITIES))


def _of_media(modalities: Iterable[Modality]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((one.name, one.endings.members) for one in modalities if one.endings.members)


@cache
def _slots(media: tuple[tuple[str, tuple[str, ...]], ...]) -> IndexColumns:
    return IndexColumns((*media, *((name, (name,)) for name in TEXTS)))


PACKED = ("gz", "bz2", "xz", "zst", "zip")  # `x.json.gz` is reported with both endings
MOST_KINDS, MOST_NAMED, LONGEST_ENDING = 20, 3, 10

HIDDEN = "hidden"
NO_ENDING = "without an ending"
OTHER = "with other endings"
SECOND = "a second {} of a sample"
FURTHER = "further files of a sample"
NO_FILE = "devices and pipes"


@dataclass
class TarSample:
    """A key and its members; `at` and `size` as in the rows of an index."""

    key: bytes
    at: list[int]
    size: list[int]
    ending: list[str | None]

    @classmethod
    def empty(cls, key: bytes, absent: int, num_slots: int) -> TarSample:
        """A sample without files."""
        return cls(key, [absent] * num_slots, [0] * num_slots, [None] * num_slots)

    def has(self, slots: Iterable[int]) -> bool:
        """Whether the sample has a file for one of these slots."""
        return any(self.ending[slot] is not None for slot in slots)

    def names(self) -> list[str]:
        """The names of its files, with endings in lower case."""
        key = self.key.decode("utf-8", "replace")
        return [f"{key}.{ending}" for ending in self.ending if ending is not None]


@dataclass
class LeftOut:
    """Files that belong to no sample: kind -> their number, and the first names."""

    kinds: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(count for count, _ in self.kinds.values())

    def add(self, kind: str, names: Iterable[str], count: int | None = None) -> None:
        """Add files of one kind; only the first names are kept. `count` if there are more files than names."""
        names = list(names)
        if kind not in self.kinds and len(self.kinds) >= MOST_KINDS:
            kind = OTHER
        before, known = self.kinds.get(kind, (0, []))
        self.kinds[kind] = (before + (len(names) if count is None else count), [*known, *names][:MOST_NAMED])

    def update(self, others: Mapping[str, tuple[int, list[str]]]) -> None:
        for kind, (count, names) in others.items():
            self.add(kind, names, count)

    def __str__(self) -> str:
        """ "3 files belong to no sample: with the ending .cls 2 (a.cls, b.cls), hidden 1 (.DS_Store)" """
        kinds = sorted(self.kinds.items(), key=lambda item: -item[1][0])
        listed = [f"{kind} {count:,} ({', '.join([*names, *['...'] * (count > len(names))])})" for kind, (count, names)
                  in kinds]  # fmt: skip
        files = "1 file belongs" if self.count == 1 else f"{self.count:,} files belong"
        return f"{files} to no sample: {', '.join(listed)}"


def split_name(name: str, slots: IndexColumns) -> tuple[bytes, str, bool] | None:
    """Key and ending of a member, and whether the key has a dot in its last part; None if it belongs to no sample."""
    if name.startswith("./"):
        name = name[2:]
    if ("/." in name or name[:1] == "." or "__" in name) and is_hidden(name):
        return None
    if not name.isascii():  # macOS writes é as two characters; image and caption may come from different systems
        name = unicodedata.normalize("NFC", name)
    key, dot, ending = _at_ending(name, slots)
    if not dot or ending not in slots.of or key[-1:] in ("/", ""):
        return None
    if key[0] in "./":
        key = key.lstrip("./")
    return key.encode("utf-8", "surrogateescape"), ending, "." in key[key.rfind("/") + 1 :]


def _at_ending(name: str, slots: IndexColumns) -> tuple[str, str, str]:
    """A name before, at and after the dot of its ending; the ending in lower case."""
    for ending in slots.compound:
        if name.lower().endswith(f".{ending}"):
            return name[: -len(ending) - 1], ".", ending
    key, dot, ending = name.rpartition(".")
    return key, dot, ending.lower()


def kind_of(name: str) -> str:
    """The group of a member that belongs to no sample."""
    if is_hidden(name):
        return HIDDEN
    parts = name.rpartition("/")[2].lower().split(".")
    if len(parts) == 1:
        return NO_ENDING
    wanted = 2 if parts[-1] in PACKED and len(parts) > 2 else 1
    ending = ".".join(parts[-wanted:])
    return f"with the ending .{ending}" if len(ending) <= LONGEST_ENDING else OTHER


def resolve_samples(
    samples: list[TarSample],
    dotted: list[TarSample],
    latest: Mapping[bytes, TarSample],
    left: LeftOut,
    slots: IndexColumns,
) -> list[TarSample]:
    """The samples without those that are further files of another sample; equal keys become key#2, key#3.

    dotted   the samples whose key has a dot
    latest   key -> the last sample with it
    """
    further: set[int] = set()
    for sample in dotted:
        if sample.has(slots.media) and sample.has(slots.texts):
            continue
        owner, rest = _owner(sample.key, latest)
        if owner is None:
            continue
        further.add(id(sample))
        if not _use_as_caption(owner, sample, rest, slots):
            left.add(FURTHER, sample.names(), len(sample.names()))
    if further:
        samples = [sample for sample in samples if id(sample) not in further]
    if len(samples) + len(further) > len(latest):
        _number_equal_keys(samples)
    return samples


def _owner(key: bytes, latest: Mapping[bytes, TarSample]) -> tuple[TarSample | None, bytes]:
    """The sample with the longest key that this key extends after a dot, and the rest of the key."""
    folder = key.rfind(b"/") + 1
    dot = key.rfind(b".", folder)
    while dot > folder:
        if (owner := latest.get(key[:dot])) is not None:
            return owner, key[dot + 1 :]
        dot = key.rfind(b".", folder, dot)
    return None, b""


def _use_as_caption(owner: TarSample, sample: TarSample, rest: bytes, slots: IndexColumns) -> bool:
    """Use the text of `a.caption` for `a`, unless `a` has its own; whether it was used."""
    if rest.lower() not in slots.of_a_caption or sample.has(slots.media) or owner.has(slots.texts):
        return False
    for slot in slots.texts:
        owner.at[slot], owner.size[slot], owner.ending[slot] = sample.at[slot], sample.size[slot], sample.ending[slot]
    return True


def _number_equal_keys(samples: list[TarSample]) -> None:
    names = {sample.key for sample in samples}
    seen: set[bytes] = set()
    for sample in samples:
        key, number = sample.key, 1
        if key in seen:
            while sample.key in names:
                number += 1
                sample.key = b"%s#%d" % (key, number)
            names.add(sample.key)
        seen.add(sample.key)
