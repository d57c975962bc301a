"""Ids of CLIP's byte pairs, with a vocabulary of a few merges."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.conversation.clip_tokenizer import BPE_FILE, ClipTokenizer

MERGES = ["d o", "do g</w>", "c a", "ca t</w>"]
FIRST = 512  # id of the first merge: 256 bytes, and 256 bytes at the end of a word
DOG, CAT, BEGIN, FINISH = FIRST + 1, FIRST + 3, FIRST + 4, FIRST + 5
A, DOT = 256 + ord("a") - ord("!"), 256 + ord(".") - ord("!")  # "a</w>", ".</w>"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / BPE_FILE
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("version\n" + "\n".join(MERGES) + "\n")
    return path


def test_ids_by_hand(vocabulary: Path) -> None:
    """Fails when bytes, merges or special tokens get other ids, case or white space counts, or padding is not zero."""
    made = ClipTokenizer(vocabulary, context=8)
    assert made(["A  Dog.", "cat"]).tolist() == [[BEGIN, A, DOG, DOT, FINISH, 0, 0, 0], [BEGIN, CAT, FINISH, *[0] * 5]]
    assert made("a").dtype == torch.int64 and made([]).shape == (0, 8)
    assert made.ids("é") == [BEGIN, *made.inner.convert_tokens_to_ids(["Ã", "©</w>"]), FINISH]  # its two bytes
    assert made.ids("&amp;quot;“") == made.ids('""')


def test_the_vocabulary_that_comes_along_is_that_of_clip() -> None:
    """Fails when a merge is missing or moved: the special tokens are the last two of 49,408."""
    made = ClipTokenizer()
    assert (made.start, made.end) == (49406, 49407)
    assert made.ids("a diagram") == [49406, 320, 22697, 49407]  # the example of CLIP's own page


def test_both_ways_to_cut(vocabulary: Path) -> None:
    """Fails when a long text loses its end although it is to keep it, or keeps it although ChatBind's copy lost it."""
    text = "dog " * 9
    assert ClipTokenizer(vocabulary, 5)(text).tolist() == [[BEGIN, DOG, DOG, DOG, FINISH]]
    assert ClipTokenizer(vocabulary, 5, keep_end=False)(text).tolist() == [[BEGIN, DOG, DOG, DOG, DOG]]
    assert ClipTokenizer(vocabulary, 5, keep_end=False)("cat").tolist() == [[BEGIN, CAT, FINISH, 0, 0]]


def test_a_folder_gives_the_same(vocabulary: Path, tmp_path: Path) -> None:
    """Fails when a Hugging Face folder gives other ids than the file it was made of."""
    made = ClipTokenizer(vocabulary)
    made.inner.save_pretrained(str(tmp_path))
    assert torch.equal(ClipTokenizer(tmp_path)(["a dog.", "cats"]), made(["a dog.", "cats"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "nothing at"), (b"text", "is not a vocabulary"), (gzip.compress(b"v\na b c\n"), "not a pair of pieces"),
     (gzip.compress(b"v\na b\n")[:-9], "is not a vocabulary")],
)  # fmt: skip
def test_what_is_no_vocabulary(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Fails when a missing or foreign file ends in a traceback, or becomes a tokenizer of other ids."""
    path = tmp_path / BPE_FILE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        ClipTokenizer(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="it has no tokenizer.json or vocab.json and merges.txt"):
        ClipTokenizer(tmp_path / "folder")
