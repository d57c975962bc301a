"""The trained components of a checkpoint, each with what it takes to write it to files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.cli.weights.delta import NOT_COPIED
from chatbridge.cli.weights.shard_writer import split_into_shards, write_index, write_json, write_safetensors
from chatbridge.common.errors import reported_at
from chatbridge.common.extras import need
from chatbridge.experiment.open import chat_from, plugins_of
from chatbridge.models.adapters import AdapterConfig
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.checkpoint_manifest import UnusableCheckpoint
from chatbridge.models.checkpoint_tensors import trained_tensors
from chatbridge.models.checkpoints import find_checkpoint, read_checked, refused
from chatbridge.models.component import Component
from chatbridge.models.component_tensors import by_component, unquantized
from chatbridge.models.fingerprints import fingerprint
from chatbridge.models.language._causal_lm_folder import read_causal_lm
from chatbridge.models.language._llava_folder import language_settings
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.loading import load_component
from chatbridge.models.merging import Update, merged, peft_settings, peft_tensors, updates
from chatbridge.serve.moved_files import hint_moved_files

LM = "language.lm"  # what transformers calls the model; its names follow
TOKENIZER_FILES = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template", "spiece")
SETTINGS_ENDS = ("config.json", ".py", ".model", ".tiktoken", ".jinja")  # settings, code of the family, vocabularies
LICENCES = ("license", "licence", "notice")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


@dataclass(frozen=True)
class Source:
    """What the parts of one checkpoint are made of: tensors by full name, of the checkpoint and of weights files."""

    model: ChatModel
    trained: Mapping[str, Tensor]
    adapted: Mapping[str, Update]
    manifest: Mapping[str, Any]
    dtype: torch.dtype | None

    def cast(self, value: Tensor) -> Tensor:
        """The tensor [...] in the dtype of the export."""
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value


def open_source(path: Path, dtype: str = "keep", options: Sequence[str] = ()) -> Source:
    """The tensors of a run or checkpoint; arguments and errors as of `exported_parts`."""
    checkpoint = find_checkpoint(path)
    try:
        manifest, _ = read_checked(checkpoint)
    except UnusableCheckpoint as error:
        raise refused(checkpoint, error) from None
    mapping = {"model": manifest["model"], "evaluation": {"template": manifest["template"].get("name")}}
    with hint_moved_files(f"chatbridge export {path} ... --options {{}}"):
        config = chat_from(mapping, plugins_of(checkpoint), options).model
    with reported_at("model"):
        model = ChatModel(config)
    trained = trained_tensors(checkpoint)
    adapters: tuple[AdapterConfig, ...] = config.adapters
    return Source(model, trained, updates(model, adapters, trained), manifest, _DTYPES.get(dtype))


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
        return _peft_part(source, own) if has_adapters and not merge else _language_part(source)
    if has_adapters and not merge:
        return _trained_part(source, name, own)
    if name == "added_tokens":  # rows that were not trained start at the mean of the language model's
        return _rows_part(source, name, own)
    return _whole_part(source, name)


def language_tensors(source: Source) -> tuple[dict[str, Tensor], Callable[[str], Tensor]]:
    """The tensors [...] of the language model by full name before the training, and what returns one after it, with
    adapters merged. Its files stay memory-mapped.

    raises   ValueError when its weights cannot be read, or are not those of the training
    """
    language = source.model.language
    assert isinstance(language, CausalLM)
    if language.config.weights is not None:
        language.lm = read_causal_lm(language.config.weights, "auto", {})[0]
    state = _without_aliases(language, "language")
    _check_base(source, "language")

    def tensor(name: str) -> Tensor:
        base = state[name]
        value = source.trained.get(name, base).to(source.dtype or base.dtype)  # fp32 keeps what the training has
        return source.cast(merged(name, value, source.adapted)).contiguous()

    return state, tensor


def _language_part(source: Source) -> Part:
    """The language model as a Hugging Face folder; one file is written at a time."""
    language = source.model.language
    assert isinstance(language, CausalLM)
    folder = language.config.weights
    state, tensor = language_tensors(source)

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        names = {name.removeprefix(f"{LM}."): name for name in state}
        split = split_into_shards({short: num_bytes(name) for short, name in names.items()}, shard_bytes)
        for file, short_names in split.filename_to_tensors.items():
            write_safetensors({short: tensor(names[short]).clone() for short in short_names}, path / file)
        write_index(path, split)
        _copy_settings(language, folder, path, source.dtype)

    def num_bytes(name: str) -> int:
        return state[name].numel() * source.cast(state[name][..., :0]).element_size()

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
        return (
            f"{path}, {len(adapted)} adapters; peft reads it: PeftModel.from_pretrained("
            f"AutoModelForCausalLM.from_pretrained({base!r}), {str(path)!r})"
        )

    return Part("language", "language", _num_bytes(tensors), write, said, is_folder=True)


def _trained_part(source: Source, name: str, own: Mapping[str, Tensor]) -> Part:
    """The trained tensors alone, adapters among them."""
    tensors = {key.removeprefix(f"{name}."): source.cast(value).clone() for key, value in own.items()}
    file = f"{name}.adapters.safetensors"
    return Part(
        name, file, _num_bytes(tensors),
        lambda path, shard_bytes: write_safetensors(tensors, path),
        lambda path: f"{path}, {len(tensors)} trained tensors, adapters not merged; with --merge it is the whole part",
    )  # fmt: skip


def _rows_part(source: Source, name: str, own: Mapping[str, Tensor]) -> Part:
    """The trained rows of added tokens."""
    tensors = {key.removeprefix(f"{name}."): source.cast(value).clone() for key, value in own.items()}
    return Part(
        name, f"{name}.safetensors", _num_bytes(tensors),
        lambda path, shard_bytes: write_safetensors(tensors, path),
        lambda path: f"{path}, {len(tensors)} trained rows by token",
    )  # fmt: skip


def whole_tensors(source: Source, name: str) -> dict[str, Tensor]:
    """The tensors [...] of a component by our names within it: the trained ones, and those of its weights files.

    raises   ValueError when these files cannot be read, or are not those of the training
    """
    own = {key: value for key, value in source.trained.items() if key.startswith(f"{name}.")}
    module = source.model.get_submodule(name)
    if isinstance(module, Component) and len(own) < len(module.state_dict()):
        for path, only in module.files():
            load_component(module, path, only)
        module.load_folder()
    state = {f"{name}.{key}": value for key, value in module.state_dict().items()}
    _check_base(source, name)
    state |= {key: value for key, value in own.items() if key in state}
    whole = {key: merged(key, value, source.adapted) for key, value in state.items()}
    return {key.removeprefix(f"{name}."): source.cast(value).clone() for key, value in whole.items()}


def _whole_part(source: Source, name: str) -> Part:
    """A whole component with our names."""
    tensors = whole_tensors(source, name)
    return Part(
        name, f"{name}.safetensors", _num_bytes(tensors),
        lambda path, shard_bytes: write_safetensors(tensors, path),
        lambda path: f"{path}, {len(tensors)} tensors; set it as model.{name}.weights",
    )  # fmt: skip


def _check_base(source: Source, name: str) -> None:
    """raises ValueError when the tensors that were frozen in training have other values now"""
    module = source.model.get_submodule(name)
    entry = source.manifest.get("components", {}).get(name, {}).get("frozen", {})
    named = {f"{name}.{key}": value for key, value in module.state_dict(keep_vars=True).items()}
    trained = {id(value) for key, value in named.items() if key in source.trained}  # tied tensors have two names
    frozen = {key: value.detach() for key, value in named.items() if id(value) not in trained}
    then = entry.get("fingerprint")
    if entry.get("bits"):  # the training had rounded values of the linear layers
        then, frozen = entry.get("unquantized"), unquantized(source.model, frozen)
    if then and (now := fingerprint(frozen)) != then:
        raise ValueError(
            f"{name}: its weights are not those of the training (fingerprint {then} then, {now} now); give the same "
            f"ones with --options model.{name}.weights=PATH. A part without a weights file, of which only some tensors "
            "were trained, had random values and cannot be exported"
        )


def _without_aliases(module: nn.Module, name: str) -> dict[str, Tensor]:
    """The state dict by full name, a tensor with two names (tied embeddings) by its first."""
    seen: set[int] = set()
    state = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            state[f"{name}.{key}"] = value.detach()
        seen.add(id(value))
    return state


def _copy_settings(language: CausalLM, folder: Path | None, path: Path, dtype: torch.dtype | None) -> None:
    """Copy config, generation settings, tokenizer and licence; the config names the dtype of the tensors."""
    if folder is None:
        language.lm.config.save_pretrained(path)
    else:
        for file in sorted(folder.iterdir()):
            if file.is_file() and _is_setting(file.name):
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


def _is_setting(name: str) -> bool:
    """Whether a file of a model folder belongs to a copy with other weights: no weights, no records of a training."""
    if name.endswith(NOT_COPIED):
        return False
    return name.startswith(TOKENIZER_FILES) or name.endswith(SETTINGS_ENDS) or name.lower().startswith(LICENCES)


def _num_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
