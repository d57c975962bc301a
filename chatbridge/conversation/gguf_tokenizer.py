"""The tokenizer in a GGUF file, built from its vocabulary, merges, token types and the name of its pre-tokenizer.

transformers has a reader of its own, whose ids differ for some files: it knows the pre-tokenizer of SmolLM as GPT-2's
(two blanks before a digit become two tokens), leaves out that Llama 3 takes a whole token before it merges, the prefix
that a SentencePiece vocabulary switches off, Qwen's normalisation, and special tokens with letters outside its byte
alphabet (DeepSeek). So the two usual kinds of vocabulary are built here; transformers reads the others (Gemma, Phi-3),
and the result is compared with the file token by token.

source   ggml-org/llama.cpp: the pre-tokenizers by name; tokenizer.json of the released models: their parts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import nearest
from chatbridge.common.extras import need
from chatbridge.common.gguf_header import GGUFHeader, read_header
from chatbridge.common.quiet_transformers import quiet_transformers

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6  # types of tokens; 1 is an ordinary one
BLANK = "▁"  # of SentencePiece
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3, _QWEN2 = _WORDS % "{1,3}", _WORDS % ""
_WHOLE_FIRST = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
_SPLITS: dict[str, str] = {
    **dict.fromkeys((*_WHOLE_FIRST, "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")  # then as GPT-2
_AS_GPT2 = ("gpt-2", "gpt2", "phi-2", "olmo", "mpt")
_OTHER_FAMILIES = ("gemma", "gemma2", "gemma3", "gemma4", "phi3")  # vocabularies with rules of their own


def gguf_tokenizer(path: Path) -> Any:
    """The tokenizer of transformers for a file, with its special tokens and its chat template.

    raises   ValueError when the file has none, or one of a kind that cannot be built
             ImportError when the package gguf is needed and not installed
    """
    header = read_header(path)
    if fault := vocabulary_fault(header):
        raise ValueError(f"{path} {fault}")
    kind = header.fields.get("tokenizer.ggml.model")
    if header.family in _OTHER_FAMILIES or kind not in ("gpt2", "llama"):
        return _of_transformers(header)
    backend = _byte_level(header) if kind == "gpt2" else _sentencepiece(header)
    _add_marked(backend, header)
    from transformers import PreTrainedTokenizerFast

    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {f"{name}_token": _named(header, key) for name, key in names.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, add_bos_token=_adds(header, "bos"),
        add_eos_token=_adds(header, "eos"), chat_template=header.fields.get("tokenizer.chat_template"),
        **{name: token for name, token in special.items() if token is not None},
    )  # fmt: skip


def vocabulary_fault(header: GGUFHeader) -> str | None:
    """Why the vocabulary cannot be used, as the continuation of the path; None if it can."""
    tokens = header.tokens
    if not tokens:
        return "has no tokenizer (tokenizer.ggml.tokens); name the model's own folder in `tokenizer`"
    types = header.fields.get("tokenizer.ggml.token_type")
    if types is not None and len(types) != len(tokens):
        return f"has {len(tokens)} tokens and {len(types)} token types, so its tokenizer is damaged"
    for key in ("bos", "eos", "unknown", "padding"):
        number = header.fields.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and not 0 <= number < len(tokens):
            return f"has {key}_token_id {number}, and {len(tokens)} tokens"
    kind, pre = header.fields.get("tokenizer.ggml.model"), header.fields.get("tokenizer.ggml.pre")
    if kind == "gpt2" and header.family not in _OTHER_FAMILIES and pre not in _known_splits():
        named = "does not name its pre-tokenizer" if pre is None else f"has the pre-tokenizer {pre!r}, which is unknown"
        guess = nearest(str(pre), _known_splits())
        similar = f" (similar: {guess})" if guess else ""
        return (
            f"{named}{similar}, so its texts would be split in another way than in training; name the folder of the "
            "model's own tokenizer in `tokenizer`"
        )
    return None


def differences(header: GGUFHeader, vocabulary: Mapping[str, int], eos_id: int | None) -> Iterator[str]:
    """How another tokenizer differs from a file's: tokens with other ids, tokens that are missing, another end.

    vocabulary   token -> id of the other one. Rows that the file fills with unused tokens may be missing there
    """
    tokens = header.tokens
    types = header.fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    other = {number: token for token, number in vocabulary.items()}
    for number in range(max(len(tokens), max(other, default=-1) + 1)):
        here = tokens[number] if number < len(tokens) else None
        there = other.get(number)
        is_spare = here is None or types[number] == UNUSED or here.startswith("[PAD")
        if there is None and (is_spare or here is None):
            continue
        if there != here and not (here is not None and there is not None and _same(here, there)):
            yield f"id {number} is {here!r} in the file, {there!r} in the folder"
    own = header.fields.get("tokenizer.ggml.eos_token_id")
    if None not in (own, eos_id) and own != eos_id:
        yield f"the end of a sequence is {own} in the file, {eos_id} in the folder"


def _same(here: str, there: str) -> bool:
    """Blanks are written in two ways (Gemma), and so are tokens outside the byte alphabet."""
    return here.replace(" ", BLANK) == there.replace(" ", BLANK) or _spelled(here) == there


def _spelled(token: str) -> str:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    alphabet = bytes_to_unicode()
    return "".join(alphabet[byte] for byte in token.encode("utf-8"))


def _known_splits() -> dict[str, str | None]:
    """Name of a pre-tokenizer -> its regular expression; None: GPT-2's."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS as more
    except ImportError:
        more = {}
    return {**more, **_SPLITS, **dict.fromkeys((*_AS_GPT2, *_SINGLE_DIGITS))}


def _byte_level(header: GGUFHeader) -> Any:
    """Byte-level BPE: GPT-2, Llama 3, Qwen, SmolLM."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pre = str(header.fields["tokenizer.ggml.pre"])
    vocabulary = {token: number for number, token in enumerate(header.tokens)}
    merges = [tuple(one.split(" ", 1)) for one in header.fields.get("tokenizer.ggml.merges") or ()]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in (*_WHOLE_FIRST, "tekken")))
    if _SPLITS.get(pre) == _QWEN2:
        backend.normalizer = normalizers.NFC()
    split = _known_splits()[pre]
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    before: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if pre in _SINGLE_DIGITS else []
    before += [pre_tokenizers.Split(Regex(split), behavior="isolated")] if split is not None else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, plain])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(header: GGUFHeader) -> Any:
    """SentencePiece BPE with bytes for what is not in the vocabulary: Llama 1 and 2, Vicuna, Mistral."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    has_prefix = header.fields.get("tokenizer.ggml.add_space_prefix", True)
    tokens, types = header.tokens, header.fields.get("tokenizer.ggml.token_type") or ()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=_merges_by_score(header), unk_token=_named(header, "unknown"), fuse_unk=True,
            byte_fallback=BYTE in types,
        )
    )  # fmt: skip
    replaced = [normalizers.Replace(" ", BLANK)]
    backend.normalizer = normalizers.Sequence([*([normalizers.Prepend(BLANK)] if has_prefix else []), *replaced])
    ends = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]  # type: ignore[list-item]
    )
    return backend


def _merges_by_score(header: GGUFHeader) -> list[tuple[str, str]]:
    """The pairs that make a token, best first: the merges of the file, or those that follow from its scores."""
    if listed := header.fields.get("tokenizer.ggml.merges"):
        return [tuple(one.split(" ", 1)) for one in listed]
    tokens, scores = header.tokens, header.fields.get("tokenizer.ggml.scores") or ()
    types = header.fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    known = {token: number for number, token in enumerate(tokens)}
    found: list[tuple[float, int, int, str, str]] = []
    for number, (token, score) in enumerate(zip(tokens, scores, strict=False)):
        if types[number] in (UNKNOWN, CONTROL, BYTE):
            continue
        for place in range(1, len(token)):
            left, right = token[:place], token[place:]
            if left in known and right in known:
                found.append((-score, known[left], known[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _add_marked(backend: Any, header: GGUFHeader) -> None:
    """Make the tokens special that the file marks as control, and added ones of those that it marks as the user's."""
    from tokenizers import AddedToken

    types = header.fields.get("tokenizer.ggml.token_type") or ()
    marked = [
        (token, kind) for token, kind in zip(header.tokens, types, strict=False) if kind in (CONTROL, USER_DEFINED)
    ]
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token, kind in marked if kind == CONTROL]
    )
    backend.add_tokens([AddedToken(token, normalized=False) for token, kind in marked if kind == USER_DEFINED])


def _named(header: GGUFHeader, key: str) -> str | None:
    number = header.fields.get(f"tokenizer.ggml.{key}_token_id")
    return header.tokens[number] if isinstance(number, int) else None


def _adds(header: GGUFHeader, end: str) -> bool:
    """Whether a text that is encoded alone gets the token of its begin or end; the conversation templates do not ask.

    Without a flag llama.cpp adds the begin for SentencePiece and for Llama 3.
    """
    is_usual = header.fields.get("tokenizer.ggml.model") == "llama"
    is_usual = is_usual or header.fields.get("tokenizer.ggml.pre") in _WHOLE_FIRST
    default = end == "bos" and is_usual and _named(header, "bos") is not None
    return bool(header.fields.get(f"tokenizer.ggml.add_{end}_token", default))


def _of_transformers(header: GGUFHeader) -> Any:
    """The tokenizer as transformers reads it. raises ValueError when a token has another id than in the file"""
    need("gguf", "the tokenizer of a GGUF file")
    from transformers import AutoTokenizer

    path = header.path
    with quiet_transformers(True):
        found = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    if wrong := list(differences(header, found.get_vocab(), found.eos_token_id)):
        raise ValueError(
            f"{path}: transformers reads its tokenizer with other ids ({wrong[0]}; {len(wrong)} in all); name the "
            "folder of the model's own tokenizer in `tokenizer`"
        )
    return found
