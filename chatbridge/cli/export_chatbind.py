"""`chatbridge export --layout chatbind...`: a checkpoint as the code of ChatBind reads it.

chatbind-projector   mm_projector.bin of stage 1: the whole embedding and the projector
chatbind             a model folder: LLaMA, the projector, and rows of added tokens
chatbind-delta       the same as the difference to a base model (--base), as ChatBind-7B is published
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.export_chatbind_settings import first_added, release_settings, write_release_tokenizer
from chatbridge.cli.export_parts import Part
from chatbridge.cli.export_release import EMBEDDING, HEAD, Release, language_release
from chatbridge.cli.export_source import Source, whole_tensors
from chatbridge.cli.weights.shard_writer import split_into_shards, write_index, write_json
from chatbridge.models.bridges.linear import Linear
from chatbridge.models.importers.chatbind import projector_of
from chatbridge.models.language._llava_folder import END, MEDIA, PAD, START
from chatbridge.models.lazy_tensors import LazyTensors

LAYOUTS = ("chatbridge", "chatbind", "chatbind-projector", "chatbind-delta")


def chatbind_part(source: Source, layout: str, base: Path | None) -> Part:
    """What `--layout` writes, as one part.

    base     folder of the model that a delta is the difference to
    raises   ValueError when the model has no such layout, or the base is another one
    """
    release = _release(source)
    if layout == "chatbind-projector":
        return _projector_part(release)
    if layout == "chatbind-delta":
        if base is None:
            raise ValueError("--layout chatbind-delta needs --base FOLDER, the model that the delta is added to: LLaMA")
        release = _difference(release, LazyTensors(base), first_added(source.model, release.tokens))
    settings = release_settings(source.model, release.tokens, release.shapes[EMBEDDING])

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        sizes = {name: release.size(name) for name in release.shapes}
        split = split_into_shards(sizes, shard_bytes, "pytorch_model{suffix}.bin")
        for file, names in split.filename_to_tensors.items():
            torch.save({name: release.tensor(name).clone() for name in names}, path / file)
        write_index(path, split, "pytorch_model.bin.index.json")
        write_json(settings, path / "config.json")
        write_release_tokenizer(source.model, release.tokens, path)

    def said(path: Path) -> str:
        if layout == "chatbind-delta":
            return f"{path}, the difference to {base}: chatbridge weights apply-delta {base} {path} OUT"
        return f"{path}, {len(release.shapes)} tensors in the layout of ChatBind; set it as run.init_from"

    return Part(layout, layout, release.num_bytes, write, said, is_folder=True)


def _projector_part(release: Release) -> Part:
    names = [name for name in release.shapes if name == EMBEDDING or "mm_projector" in name]  # the projector last

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        torch.save({name: release.tensor(name).clone() for name in names}, path / "mm_projector.bin")

    def said(path: Path) -> str:
        return f"{path / 'mm_projector.bin'}, the projector and {len(release.shapes[EMBEDDING])} embedding rows"

    size = sum(map(release.size, names))
    return Part("chatbind-projector", "chatbind-projector", size, write, said, is_folder=True)


def _release(source: Source) -> Release:
    """The merged model. raises ValueError when it is not a LLaMA with a linear projector and ChatBind's tokens"""
    model = source.model
    tokens, projector = _tokens(model), _projector(source)
    language = language_release(source, tokens, "ChatBind")
    more = _frequencies(model.language) | projector
    shapes = {name: value for name, value in language.shapes.items() if name != HEAD}
    shapes |= {name: value.to("meta") for name, value in more.items()}
    shapes[HEAD] = language.shapes[HEAD]

    def tensor(name: str) -> Tensor:
        return more[name] if name in more else language.tensor(name)

    # the projector comes after the embedding: the reference's loader keeps the last of two names ending alike
    return Release(shapes, tensor, tokens)


def _tokens(model: Any) -> tuple[str, ...]:
    """The added tokens in the order of the release. raises ValueError for other tokens, or without start and end"""
    added = model.config.added_tokens
    order = tuple(token for token in (PAD, *MEDIA) if token in added)
    if other := [token for token in added if token not in order]:
        raise ValueError(f"the layout of ChatBind has no row for {', '.join(other)} of model.added_tokens")
    if order[-2:] != (START, END):
        raise ValueError(f"the layout of ChatBind ends with rows of {START} and {END}; model.added_tokens lacks them")
    return order


def _projector(source: Source) -> dict[str, Tensor]:
    name = projector_of(source.model)
    bridge = source.model.bridges[name]
    if not isinstance(bridge, Linear) or bridge.config.join != 1 or bridge.config.pool is not None:
        raise ValueError(
            f"the layout of ChatBind has one linear projector of single features; bridges.{name} is "
            f"{type(bridge).__name__} with other settings"
        )
    tensors = whole_tensors(source, f"bridges.{name}")
    return {f"model.mm_projector.{key}": tensors[f"output.{key}"] for key in ("weight", "bias")}


def _frequencies(language: Any) -> dict[str, Tensor]:
    """The rotary frequencies of every layer, float[head width / 2], which transformers stored until 2023. Without them
    it would load uninitialised values with low_cpu_mem_usage."""
    config = language.lm.config
    width = config.hidden_size // config.num_attention_heads
    frequency = 1.0 / 10000.0 ** (torch.arange(0, width, 2).float() / width)
    return {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": frequency for n in range(config.num_hidden_layers)}


def _difference(release: Release, base: LazyTensors, first: int) -> Release:
    """The release minus a base, in fp16; rows and tensors that the base does not have stay whole.

    first    id of the first token that the release adds to LLaMA's
    raises   ValueError when the base is of another size
    """
    headers, where = base.headers, f"{base.path} is not a base of this model"
    for name in dict.fromkeys((*headers, *release.shapes)):
        if name.endswith("inv_freq") or (name not in headers and "mm_projector" in name):
            continue
        if name not in headers or name not in release.shapes:
            raise ValueError(f"{where}: {name} is {'there' if name in headers else 'here'} only")
        own, shape = headers[name].shape, tuple(release.shapes[name].shape)
        if name in (EMBEDDING, HEAD) and own[1:] == shape[1:]:
            if own[0] > first:
                raise ValueError(
                    f"{where}: {name} has {own[0]} rows there; the delta of a release is added to LLaMA, which has the "
                    f"{first} rows before the added tokens"
                )
        elif own != shape:
            raise ValueError(f"{where}: {name} is {list(own)} there and {list(shape)} here")

    def tensor(name: str) -> Tensor:
        if name.endswith("inv_freq"):
            return torch.zeros_like(release.tensor(name))
        whole = release.tensor(name).half().clone()
        if name in headers:
            whole[: headers[name].shape[0]] -= base[name].half()
        return whole

    shapes = {name: value if name.endswith("inv_freq") else value.half() for name, value in release.shapes.items()}
    return Release(shapes, tensor, release.tokens)
