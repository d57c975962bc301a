"""The language model in a folder of ChatBind, LLaVA's first version and their relatives.

Their config.json is Llama's with settings of the projector and a model_type that transformers does not know; the files
have the projector too, and the vocabulary ends with tokens for media. The language model is everything before those
tokens: they belong to `model.added_tokens`, whose ids continue there; run.init_from loads them with the projector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAD, PATCH, START, END = "[PAD]", "<im_patch>", "<im_start>", "<im_end>"
MEDIA = (PATCH, START, END)
LLAMA_ROWS = 32000
KNOWN = {  # rows of an embedding -> tokens after LLaMA's: --version v0 and v1, with and without start and end
    LLAMA_ROWS + 4: (PAD, PATCH, START, END), LLAMA_ROWS + 3: (PATCH, START, END),
    LLAMA_ROWS + 2: (PAD, PATCH), LLAMA_ROWS + 1: (PATCH,),
}  # fmt: skip
PROJECTOR = "mm_projector."
_OWN = ("mm_", "use_mm_proj", "model_type", "architectures", "tune_mm_", "freeze_mm_", "image_aspect", "sep_image")


def llava_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the whole model in such a folder, as Llama's; None for another folder.

    Its padding id is left out where it is not a row, such as -1, which torch takes for the last row.
    """
    content = read_mapping(folder / "config.json")
    is_own = "mm_hidden_size" in content or str(content.get("model_type")).startswith("llava_image_bind")
    if not is_own or "text_config" in content or "hidden_size" not in content:
        return None
    settings = {key: value for key, value in content.items() if not key.startswith(_OWN)}
    pad = settings.get("pad_token_id")
    if pad is None or not 0 <= pad < settings.get("vocab_size", LLAMA_ROWS):
        settings["pad_token_id"] = None
    return {**settings, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def language_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the language model without the tokens for media; None for a folder of another kind.

    raises   ValueError when the rows of those tokens are not known, or other rows follow them
    """
    settings = llava_settings(folder)
    if settings is None:
        return None
    num_rows = own_rows(folder, int(settings.get("vocab_size", LLAMA_ROWS)))
    pad = settings["pad_token_id"]
    return {**settings, "vocab_size": num_rows, "pad_token_id": None if pad is None or pad >= num_rows else pad}


def own_rows(folder: Path, num_rows: int) -> int:
    """The number of rows before the tokens for media, of `num_rows`.

    raises   ValueError when their rows are not known, or other rows follow them
    """
    rows = rows_in_folder(folder)
    if not rows and num_rows in KNOWN:
        names = KNOWN[num_rows]
        rows = {token: num_rows - len(names) + number for number, token in enumerate(names)}
    media = [rows[token] for token in MEDIA if token in rows]
    if not media:
        raise ValueError(
            f"{folder}: which of its {num_rows} embedding rows are those of {', '.join(MEDIA)} is not known; put the "
            "tokenizer of the release into the folder"
        )
    if sorted(media) != list(range(min(media), num_rows)):
        raise ValueError(
            f"{folder}: the rows of {', '.join(MEDIA)} are {sorted(media)} by its tokenizer, and its embedding has "
            f"{num_rows} rows; expected the last ones"
        )
    return min(media)


def without_media(settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors [...] of the language model by name, from all in a folder: without projector, and with the rows of
    `language_settings`."""
    found = {}
    for name, value in tensors.items():
        if PROJECTOR not in name:
            is_vocabulary = name.endswith(("embed_tokens.weight", "lm_head.weight"))
            found[name] = value[: settings["vocab_size"]] if is_vocabulary else value
    return found


def rows_in_folder(folder: Path) -> dict[str, int]:
    """Added token -> id according to the tokenizer files of a folder, in the order of the ids; {} without them.

    Tokens of the vocabulary that are listed as added too (<s>) are left out.
    """
    found: dict[str, int] = {}
    listed = read_mapping(folder / "added_tokens.json")
    found |= {token: number for token, number in listed.items() if isinstance(number, int)}
    for entry in read_mapping(folder / "tokenizer.json").get("added_tokens") or ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            found[str(entry.get("content"))] = entry["id"]
    for number, entry in (read_mapping(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}).items():
        if isinstance(entry, dict) and number.isdigit():
            found[str(entry.get("content"))] = int(number)
    ids = [found[token] for token in (PAD, *MEDIA) if token in found]
    own = {token: number for token, number in found.items() if ids and number >= min(ids)}
    return dict(sorted(own.items(), key=lambda pair: pair[1]))


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON mapping; {} for a file that is missing, damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
