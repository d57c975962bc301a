"""Which split a thing belongs to, and which stamps are the same thing.

Two stamps are one thing if they have the same caption, or files whose names differ only by a number, a case or the
folder `cartoon` (`frog.png` and `frog-1.png`; `Strawberry2.png` and `cartoon/strawberry.svg`). All of a thing is in one
split, so nothing that was trained on is asked about as held out. The split is a hash of the thing's name: it does not
change when stamps are added or the order of the files changes.

Things with a sound are always for training: questions about a picture and a sound need both to be known. Of them other
recordings, other sections of a recording and mirrored pictures are held out (stamps.sounds, stamps.pairs).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SHARES = {TEST: 0.16, VALIDATION: 0.06}  # of the things; the rest is for training


def split_of(thing: str) -> str:
    """train, validation or test, by a hash of the name."""
    position = int.from_bytes(hashlib.sha256(f"stamps {thing}".encode()).digest()[:8]) / 2**64
    for split, share in SHARES.items():
        if position < share:
            return split
        position -= share
    return TRAIN


def things(captions: Mapping[str, str]) -> dict[str, str]:
    """Path of each stamp -> its thing: the caption in short of the first stamp, sorted by path, that is the same thing.

    captions   path below the folder of stamps -> caption, "" without one
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for path, caption in captions.items():
        for key in (f"file {_file_key(path)}", f"caption {_caption_key(caption)}" if caption else ""):
            if key:
                parent[root(key)] = root(f"stamp {path}")
    named: dict[str, str] = {}
    for path in sorted(captions):
        named.setdefault(root(f"stamp {path}"), _caption_key(captions[path]) or _file_key(path))
    return {path: named[root(f"stamp {path}")] for path in captions}


def _file_key(path: str) -> str:
    """Folder without `cartoon`, and stem without a number at its end."""
    pure = PurePosixPath(path)
    folder = "/".join(part for part in pure.parent.parts if part != "cartoon")
    stem = re.sub(r"_mirror$", "", pure.stem.lower())
    return f"{folder}/{re.sub(r'[-_ ]*[0-9]+$', '', stem) or stem}"


def _caption_key(caption: str) -> str:
    """The caption in lower case, without its article and its marks."""
    words = re.findall(r"\w+", caption.lower())
    if words and words[0] in {"a", "an", "the", "some"}:
        words = words[1:]
    return " ".join(words)
