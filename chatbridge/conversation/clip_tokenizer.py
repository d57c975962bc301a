"""CLIP's byte pairs, as ImageBind's text trunk reads them."""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.errors import ConfigError, Problem

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"  # as the repositories of CLIP, open_clip and ImageBind hold it
# The merges of that file that CLIP uses, with its licence (MIT) in the first line.
MERGES = Path(__file__).with_name("clip_merges.txt.gz")
FOLDER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
START, END = "<|startoftext|>", "<|endoftext|>"
_NUM_MERGES = 49152 - 256 - 2  # of the lines of that file, after its first one
_QUOTES = {**dict.fromkeys(map(ord, "‘’‚‛ʼ"), "'"), **dict.fromkeys(map(ord, "“”„‟"), '"')}


class ClipTokenizer:
    """Texts -> int64[B, context]: start, the pieces in lower case, end, then zeros.

    vocabulary   a Hugging Face folder of a CLIP model (vocab.json and merges.txt, or tokenizer.json), or the file
                 bpe_simple_vocab_16e6.txt.gz itself; the default is CLIP's own, which comes with ChatBridge
    context      positions of a text; 77 in the released weights
    keep_end     whether a text that is cut still ends with the end token, as in ImageBind today. ChatBind's older copy
                 lost it, so that the trunk, which reads the position of the largest id, reads another one

    HTML entities are replaced twice, quotation marks made straight, and white space is joined. ImageBind also repairs
    wrongly decoded text with the package ftfy; here such text stays as it is.

    raises   ConfigError when there is no such vocabulary
    Source: facebookresearch/ImageBind, SimpleTokenizer; golden imagebind_tokenizer.
    """

    def __init__(self, vocabulary: str | Path = MERGES, context: int = 77, keep_end: bool = True):
        if context < 2:
            raise ValueError(f"context is {context}; a text needs 2 positions for its start and end alone")
        self.inner = _read(Path(vocabulary))
        self.context = context
        self.keep_end = keep_end
        self.start, self.end = (self.inner.convert_tokens_to_ids(token) for token in (START, END))

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """int64[B, context], B = 1 for one text"""
        given = [texts] if isinstance(texts, str) else list(texts)
        rows = [self.ids(text) for text in given]
        padded = [row + [0] * (self.context - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).view(len(given), self.context)

    def ids(self, text: str) -> list[int]:
        """Start, pieces and end of a text, cut to the context."""
        found = [self.start, *self.inner(cleaned(text), add_special_tokens=False)["input_ids"], self.end]
        if len(found) > self.context:
            found = found[: self.context]
            if self.keep_end:
                found[-1] = self.end
        return found


def cleaned(text: str) -> str:
    """A text as CLIP's repositories clean it, without the repairs of ftfy but for its straight quotation marks."""
    text = html.unescape(html.unescape(text.translate(_QUOTES)))
    return re.sub(r"\s+", " ", text).strip().lower()


def _read(path: Path) -> Any:
    """transformers' CLIPTokenizer of a folder, or of the file of merges."""
    from transformers import CLIPTokenizer

    if not path.exists():
        hint = f"name a Hugging Face folder of a CLIP model, or the file {BPE_FILE}"
        raise ConfigError([Problem("tokenizer", f"nothing at {path}", hint=hint)])
    if path.is_dir() and not any(all((path / name).is_file() for name in names) for names in FOLDER_FILES):
        listed = " or ".join(" and ".join(names) for names in FOLDER_FILES)
        raise ConfigError([Problem("tokenizer", f"{path} is not a vocabulary of CLIP: it has no {listed}")])
    try:
        if path.is_file():
            vocabulary, merges = _vocabulary(path)
            given: Any = merges
            return CLIPTokenizer(vocab=vocabulary, merges=given)
        found = CLIPTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ConfigError([Problem("tokenizer", f"{path} is not a vocabulary of CLIP: {error}")]) from error
    missing = [token for token in (START, END) if token not in found.get_vocab()]
    if missing:
        message = f"{path} is not a vocabulary of CLIP: it has no {' and no '.join(missing)}"
        raise ConfigError([Problem("tokenizer", message)])
    return found


def _vocabulary(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """token -> id, and the merges in their order.

    The ids follow from the order of the file: bytes, bytes at the end of a word, merges, start and end.
    """
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        lines = stream.read().splitlines()[1 : _NUM_MERGES + 1]
    pairs = [tuple(line.split()) for line in lines]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != len(pairs) or not merges:
        raise ValueError("a line is not a pair of pieces")
    characters = _byte_characters()
    tokens = [*characters, *(f"{one}</w>" for one in characters), *("".join(pair) for pair in merges), START, END]
    return {token: number for number, token in enumerate(tokens)}, merges


def _byte_characters() -> list[str]:
    """A visible character for each byte, in CLIP's order: first the visible ones of Latin-1, which represent
    themselves, then the rest as the characters from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(one) for one in visible] + [chr(256 + number) for number in range(256 - len(visible))]
