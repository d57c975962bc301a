"""The trained components of a checkpoint, each with what it takes to write it to files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.export_added_rows import added_rows
from chatbridge.cli.export_source import Source, language_tensors, open_source, whole_tensors
from chatbridge.cli.gguf_folder import write_gguf_settings
from chatbridge.cli.weights.delta import NOT_COPIED
from chatbridge.cli.weights.shard_writer import split_into_shards, write_index, write_json, write_safetensors
from chatbridge.common.extras import need
from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.models.component_tensors import by_component
from chatbridge.models.language._llava_folder import language_settings
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.merging import peft_settings, peft_tensors

LM = "language.lm"  # what transformers calls the model; its names follow
TOKENIZER_FILES = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template", "spiece")
SETTINGS_ENDS = ("config.json", ".py", ".model", ".tiktoken", ".jinja")  # settings, code of the family, vocabularies
LICENCES = ("license", "licence", "notice")


@dataclass(frozen=True)
class Part:
    """A trained component as it will be written.

    name        of the component
    file_name   of its file or folder
    num_bytes   of its tensors
    write       writes it to a path, with files of at most so many bytes
    said        the line for the user, given that path
    """

    name: str
    file_name: str
    num_bytes: int
    write: Callable[[Path, int], None]
    said: Callable[[Path], str]
    is_folder: bool = False


def exported_parts(path: Path, merge: bool, dtype: str = "keep", options: Sequence[str] = ()) -> list[Part]:
    """The trained components of a run or checkpoint, in the order of the model.

    merge    add adapters to the weights of their layers
    dtype    keep, fp32, bf16 or fp16
    options  the new place of weights that moved
    raises   ValueError when the checkpoint is damaged, or the weights of a component are not those of the training
    """
    source = open_source(path, dtype, options)
    return [_part(source, name, merge) for name in by_component(source.trained)]


def _part(source: Source, name: str, merge: bool) -> Part:
    own = {key: value for key, value in source.trained.items() if key.startswith(f"{name}.")}
    has_adapters = any(layer.startswith(f"{name}.") for layer in source.adapted)
    if name == "language":
        return _peft_part(source, own) if has_adapters and not merge else language_part(source)
    if has_adapters and not merge:
        return _trained_part(source, name, own)
    if name == "added_tokens":  # rows that were not trained start at the mean of the language model's
        return _rows_part(source, name, own)
    return _whole_part(source, name)


def language_part(source: Source, has_added_rows: bool = False) -> Part:
    """The language model as a Hugging Face folder, adapters merged; one file is written at a time.

    has_added_rows   added tokens are rows of its vocabulary and tokens of its tokenizer
    raises           ValueError when its weights cannot be read, or are not those of the training
    """
    language = source.model.language
    assert isinstance(language, CausalLM)
    folder = language.config.weights
    state, tensor = language_tensors(source)
    added = added_rows(source) if has_added_rows else None
    tensor = tensor if added is None else added.extended(tensor)

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        names = {name.removeprefix(f"{LM}."): name for name in state}
        split = split_into_shards({short: num_bytes(name) for short, name in names.items()}, shard_bytes)
        for file, short_names in split.filename_to_tensors.items():
            write_safetensors({short: tensor(names[short]).clone() for short in short_names}, path / file)
        write_index(path, split)
        copy_settings(language, folder, path, source.dtype)
        if added is not None:
            added.write_settings(path)

    def num_bytes(name: str) -> int:
        num_values = state[name].numel() + (0 if added is None else added.num_values(name))
        return num_values * source.cast(state[name][..., :0]).element_size()

    def said(path: Path) -> str:
        layers = sum(layer.startswith("language.") for layer in source.adapted)
        what = f" with {layers} adapters merged" if layers else ""
        return f"{path}{what}; transformers reads it: AutoModelForCausalLM.from_pretrained({str(path)!r})"

    return Part("language", "language", sum(map(num_bytes, state)), write, said, is_folder=True)


def _peft_part(source: Source, own: Mapping[str, Tensor]) -> Part:
    """The adapters of the language model as a peft folder."""
    if whole := [name for name in own if ".lora_" not in name]:
        raise ValueError(
            f"the language model was trained beside its adapters too ({whole[0]} and {len(whole) - 1} more), which a "
            "peft folder does not hold; export it merged, with --merge"
        )
    language: Any = source.model.language
    adapted = {name: update for name, update in source.adapted.items() if name.startswith("language.")}
    tensors = {name: source.cast(value).clone() for name, value in peft_tensors(adapted, LM).items()}
    base = str(language.config.weights)
    settings = peft_settings(adapted, LM, base)
    peft = need("peft", "writing adapters as a peft folder")

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        write_safetensors(tensors, path / "adapter_model.safetensors")
        peft.LoraConfig(**settings).save_pretrained(str(path))

    def said(path: Path) -> str:
        own = source.model.config.weights
        other = "" if own is None else f"; its embedding is that of {own}, not of that folder"
        return (
            f"{path}, {len(adapted)} adapters; peft reads it: PeftModel.from_pretrained("
            f"AutoModelForCausalLM.from_pretrained({base!r}), {str(path)!r}){other}"
        )

    return Part("language", "language", num_bytes(tensors), write, said, is_folder=True)


def _trained_part(source: Source, name: str, own: Mapping[str, Tensor]) -> Part:
    """The trained tensors alone, adapters among them."""
    tensors = {key.removeprefix(f"{name}."): source.cast(value).clone() for key, value in own.items()}
    file = f"{name}.adapters.safetensors"
    return Part(
        name, file, num_bytes(tensors),
        lambda path, shard_bytes: write_safetensors(tensors, path),
        lambda path: f"{path}, {len(tensors)} trained tensors, adapters not merged; with --merge it is the whole part",
    )  # fmt: skip


def _rows_part(source: Source, name: str, own: Mapping[str, Tensor]) -> Part:
    """The trained rows of added tokens."""
    tensors = {key.removeprefix(f"{name}."): source.cast(value).clone() for key, value in own.items()}
    return Part(
        name, f"{name}.safetensors", num_bytes(tensors),
        lambda path, shard_bytes: write_safetensors(tensors, path),
        lambda path: f"{path}, {len(tensors)} trained rows by token",
    )  # fmt: skip


def _whole_part(source: Source, name: str) -> Part:
    """A whole component with our names."""
    tensors = whole_tensors(source, name)
    use = f"set it as model.{name}.weights"
    if name == "fusion":  # which has no `weights`
        use = "--layout openflamingo writes a file that model.weights reads"
    return Part(
        name, f"{name}.safetensors", num_bytes(tensors),
        lambda path, shard_bytes: write_safetensors(tensors, path),
        lambda path: f"{path}, {len(tensors)} tensors; {use}",
    )  # fmt: skip


def copy_settings(language: CausalLM, folder: Path | None, path: Path, dtype: torch.dtype | None) -> None:
    """Copy config, generation settings, tokenizer and licence; the config names the dtype of the tensors."""
    if folder is not None and is_gguf_name(folder):
        write_gguf_settings(folder, path, dtype, has_tokenizer=language.config.tokenizer is None)
    elif folder is None:
        language.lm.config.save_pretrained(path)
    else:
        for file in sorted(folder.iterdir()):
            if file.is_file() and is_setting(file.name):
                shutil.copyfile(file, path / file.name)
        if language_settings(folder) is not None:  # of a multimodal model; the language model is Llama
            language.lm.config.save_pretrained(path)
    tokenizer = language.tokenizer_folder
    for file in sorted(tokenizer.iterdir()) if tokenizer is not None and tokenizer != folder else ():
        if file.is_file() and file.name.startswith(TOKENIZER_FILES):
            shutil.copyfile(file, path / file.name)
    if dtype is not None:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        key = "torch_dtype" if "torch_dtype" in config else "dtype"
        write_json({**config, key: str(dtype).removeprefix("torch.")}, path / "config.json")


def is_setting(name: str) -> bool:
    """Whether a file of a model folder belongs to a copy with other weights: no weights, no records of a training."""
    if name.endswith(NOT_COPIED):
        return False
    return name.startswith(TOKENIZER_FILES) or name.endswith(SETTINGS_ENDS) or name.lower().startswith(LICENCES)


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
