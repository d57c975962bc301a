"""A Hugging Face tokenizer that treats every text segment alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.common.quiet_transformers import quiet_transformers
from chatbridge.conversation.gguf_tokenizer import gguf_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")


class TokenizerLike(Protocol):
    """The tokenizer of a layout. Ids of a text never contain special tokens; "" has no ids."""

    @cached_property
    def bos_id(self) -> int | None: ...
    @cached_property
    def eos_id(self) -> int | None: ...
    @cached_property
    def pad_id(self) -> int: ...
    def encode(self, text: str) -> Sequence[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class Tokenizer:
    """Text segments to ids as the slow Llama tokenizer made them for Vicuna and ChatBridge.

    - no special tokens are added, and text that reads like one ("</s>") stays text;
    - a SentencePiece vocabulary puts its dummy prefix before every segment, also one that starts with a blank: " and"
      is "▁", "▁and". transformers 5 leaves the prefix out there, so its pre-tokenizer is replaced (meets the golden
      textbind_minigpt4_llama_tokens and sentencepiece itself).
    The padding token falls back to the end-of-sequence token; padding is never read, whichever it is.

    num_rows   rows of the language model's embedding; the padding id is smaller. None: not known
    added      tokens of `model.added_tokens`. Their ids continue after num_rows; text that reads like one stays text
    """

    def __init__(self, inner: Any, num_rows: int | None = None, added: Sequence[str] = ()):
        self.inner = inner
        self.num_rows = num_rows
        self.added = tuple(added)
        self._prepare()

    @classmethod
    def from_pretrained(cls, folder: str | Path, num_rows: int | None = None, added: Sequence[str] = ()) -> Tokenizer:
        """From a folder with `tokenizer.json` or `tokenizer.model`, or a .gguf file; nothing is downloaded.

        raises   ConfigError when the folder or its tokenizer is missing
        """
        folder = Path(folder)
        if is_gguf_name(folder):
            return cls(_of_gguf(folder), num_rows, added)
        if not folder.is_dir():
            raise ConfigError([Problem("tokenizer", f"no folder at {folder}", hint="name a Hugging Face model folder")])
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            listed = ", ".join(TOKENIZER_FILES)
            raise ConfigError([Problem("tokenizer", f"{folder} has no tokenizer: none of {listed}")])
        from transformers import AutoTokenizer

        try:
            with quiet_transformers(_is_of_unknown_model(folder)):
                return cls(AutoTokenizer.from_pretrained(str(folder), local_files_only=True), num_rows, added)
        except Exception as error:  # broken files fail in many ways
            raise ConfigError([Problem("tokenizer", f"{folder} cannot be read as a tokenizer: {error!r}")]) from error

    @cached_property
    def bos_id(self) -> int | None:
        return self.inner.bos_token_id

    @cached_property
    def eos_id(self) -> int | None:
        return self.inner.eos_token_id

    @cached_property
    def pad_id(self) -> int:
        known = (self.inner.pad_token_id, self.inner.eos_token_id, 0)
        return next(number for number in known if number is not None and number < (self.num_rows or number + 1))

    @property
    def added_ids(self) -> dict[str, int]:
        """Token -> id of `model.added_tokens`."""
        return dict(zip(self.added, self._added_range, strict=True))

    @property
    def _added_range(self) -> range:
        first = len(self.inner) if self.num_rows is None else self.num_rows
        return range(first, first + len(self.added))

    def token_id(self, token: str) -> int | None:
        """The id of one token by its name: an added one, or one of the vocabulary, special ones included."""
        return self.added_ids.get(token, self.inner.get_vocab().get(token))

    def token_name(self, number: int) -> str | None:
        """The added token that has this id."""
        return next((token for token, own in self.added_ids.items() if own == number), None)

    def written_ids(self) -> dict[str, int]:
        """Token -> id of everything that a text or the ends of a sequence can become. Other special tokens never occur:
        text that reads like one stays text."""
        ends = {self.bos_id, self.eos_id}
        added = getattr(self.inner, "added_tokens_decoder", {})
        hidden = {number for number, token in added.items() if getattr(token, "special", False)} - ends
        hidden |= {self.inner.pad_token_id, *self._added_range} - ends
        return {name: number for name, number in self.inner.get_vocab().items() if number not in hidden}

    @property
    def vocab_size(self) -> int:
        """Number of ids that the tokenizer's own files give."""
        return len(self.inner)

    def encode(self, text: str) -> list[int]:
        if not text:
            return []
        if self._backend is not None:  # four times as fast as the wrapper, which resets the switch
            self._backend.encode_special_tokens = True  # text that reads like a special token stays text
            return self._backend.encode(text, add_special_tokens=False).ids
        return self.inner.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens and added ones."""
        added = self._added_range
        ids = [number for number in ids if number not in added]
        return self.inner.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.inner = state["inner"]
        self.num_rows = state.get("num_rows")
        self.added = state.get("added", ())
        self._prepare()

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner, "num_rows": self.num_rows, "added": self.added}

    def _prepare(self) -> None:
        self._backend = getattr(self.inner, "backend_tokenizer", None)
        if self._backend is None:
            return
        from tokenizers import AddedToken, normalizers, pre_tokenizers

        known = [token for token in self.added if self._backend.token_to_id(token) is not None]
        if known:  # of a multimodal release; old files do not say that they are special, so a text would become them
            self._backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in known])
        split = self._backend.pre_tokenizer
        if isinstance(split, pre_tokenizers.Metaspace) and split.prepend_scheme != "never":
            mark = split.replacement
            prefix = [normalizers.Prepend(mark), normalizers.Replace(" ", mark)]
            before = self._backend.normalizer
            self._backend.normalizer = normalizers.Sequence(([before] if before is not None else []) + prefix)
            self._backend.pre_tokenizer = None


def _is_of_unknown_model(folder: Path) -> bool:
    """Whether config.json is of a model that transformers does not know, ChatBind's; the tokenizer is readable."""
    try:
        return '"llava_image_bind' in (folder / "config.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _of_gguf(path: Path) -> Any:
    """The tokenizer in a GGUF file, with its chat template."""
    try:
        return gguf_tokenizer(path)
    except (ValueError, ImportError) as error:
        raise ConfigError([Problem("tokenizer", str(error))]) from None
    except Exception as error:  # broken files fail in many ways
        raise ConfigError([Problem("tokenizer", f"{path} cannot be read as a tokenizer: {error!r}")]) from error
