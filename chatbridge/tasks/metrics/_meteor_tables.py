"""METEOR's synonyms (WordNet 3.0) and paraphrases, from the files inside the package pycocoevalcap; without Java."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.common.extras import need

# endings of WordNet's morphology, with what replaces them: of nouns, verbs, adjectives
_ENDINGS = (
    *(
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)
Phrase = tuple[str, ...]


def folder() -> Path:
    """Where the package keeps METEOR. Raises ModuleNotFoundError that says how to install it."""
    package = need("pycocoevalcap", "METEOR with synonyms and paraphrases (its files, not Java)")
    return Path(next(iter(package.__path__))) / "meteor"


class Synonyms:
    """Synsets of words.

    raises   DataError if the file is not METEOR 1.5
    """

    def __init__(self, jar: Path):
        try:
            with zipfile.ZipFile(jar) as files:
                forms = _pairs(files.read("synonym/english.exceptions"))
                synsets = _pairs(files.read("synonym/english.synsets"))
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{jar}: METEOR's synonyms cannot be read: {error}; install pycocoevalcap again") from error
        self.synsets = {word: frozenset(found.split()) for word, found in synsets}
        self.bases: dict[str, list[str]] = {}
        for base, irregular in forms:
            for form in irregular.split():
                self.bases.setdefault(form, []).append(base)

    def of(self, word: str) -> frozenset[str]:
        """Synsets of the word and of its base form."""
        nothing: frozenset[str] = frozenset()
        bases = self.bases.get(word) or [self._base(word)]
        return self.synsets.get(word, nothing).union(*(self.synsets.get(base, nothing) for base in bases))

    def _base(self, word: str) -> str:
        if word.endswith("ss") or len(word) <= 2:
            return word
        for ending, instead in _ENDINGS:
            if word.endswith(ending):
                base = word[: len(word) - len(ending)] + instead
                if base in self.synsets:
                    return base + ("ful" if word.endswith("ful") else "")
        return ""


def paraphrases(table: Path, words: Iterable[str]) -> dict[Phrase, list[Phrase]]:
    """Phrase -> its paraphrases, of those that consist of the words. Reads 5.3 million pairs, about 4 s.

    raises   DataError if the file is cut off or no table
    """
    known = {word.encode() for word in words}.issuperset
    found: dict[Phrase, list[Phrase]] = {}
    try:
        for lines in _blocks(table):  # of three lines: a probability that METEOR does not use, a phrase, a paraphrase
            for phrase, other in zip(lines[1::3], lines[2::3], strict=True):
                if known(phrase.split()) and known(other.split()):
                    found.setdefault(tuple(phrase.decode().split()), []).append(tuple(other.decode().split()))
    except (OSError, ValueError, zlib.error) as error:
        raise DataError(
            f"{table}: METEOR's paraphrases cannot be read: {error}; install pycocoevalcap again"
        ) from error
    return found


def _blocks(table: Path) -> Iterator[list[bytes]]:
    """The lines of a compressed file, in lists whose length is a multiple of three."""
    unpacked = zlib.decompressobj(wbits=31)
    rest: list[bytes] = [b""]
    with table.open("rb") as file:
        while packed := file.read(1 << 22):
            lines = (b"\n".join(rest) + unpacked.decompress(packed)).split(b"\n")
            whole = (len(lines) - 1) // 3 * 3  # the last line may go on
            yield lines[:whole]
            rest = lines[whole:]
    if not unpacked.eof or rest != [b""]:
        raise ValueError("the file is cut off")


def _pairs(content: bytes) -> list[tuple[str, str]]:
    """Lines two by two."""
    lines = content.decode("utf-8").splitlines()
    return list(zip(lines[::2], lines[1::2], strict=True))
