"""`chatbridge export --layout chatbind...`: a checkpoint as the code of ChatBind reads it.

chatbind-projector   mm_projector.bin of stage 1: the whole embedding and the projector
chatbind             a model folder: LLaMA, the projector, and rows of added tokens
chatbind-delta       the same as the difference to a base model (--base), as ChatBind-7B is published
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.export_chatbind_settings import first_added, release_settings, write_release_tokenizer
from chatbridge.cli.export_parts import LM, Part
from chatbridge.cli.export_source import Source, language_tensors, whole_tensors
from chatbridge.cli.weights.shard_writer import split_into_shards, write_index, write_json
from chatbridge.models.bridges.linear import Linear
from chatbridge.models.importers.chatbind import projector_of
from chatbridge.models.language._llava_folder import END, MEDIA, PAD, START
from chatbridge.models.lazy_tensors import LazyTensors

LAYOUTS = ("chatbridge", "chatbind", "chatbind-projector", "chatbind-delta")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Release:
    """The tensors of a released layout by name, each computed when it is written.

    shapes   name -> shape and dtype, on the meta device [...], in the order of the file
    tensor   returns one
    tokens   of the vocabulary after the language model's own
    """

    shapes: dict[str, Tensor]
    tensor: Callable[[str], Tensor]
    tokens: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """The size of all tensors."""
        return sum(self.size(name) for name in self.shapes)

    def size(self, name: str) -> int:
        """Bytes of one tensor."""
        return self.shapes[name].numel() * self.shapes[name].element_size()


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
    state, language = language_tensors(source)
    if model.added_tokens is not None:
        model.added_tokens.start(model.language)
    full = {name.removeprefix(f"{LM}."): name for name in state}
    if HEAD not in full:
        raise ValueError(
            "the layout of ChatBind has an output head beside the embedding, as LLaMA has; the head of this language "
            "model is its embedding (tie_word_embeddings); export it with --layout chatbridge"
        )
    rows = {name: _rows(source, part, tokens) for part, name in (("embedding", EMBEDDING), ("head", HEAD))}
    frequencies = _frequencies(model.language)
    shapes = {EMBEDDING: _taller(state[full[EMBEDDING]], len(tokens), source)}
    shapes |= {name: _meta(source.cast(state[own][:0]), state[own]) for name, own in full.items() if name not in rows}
    shapes |= {name: value.to("meta") for name, value in (frequencies | projector).items()}
    shapes[HEAD] = _taller(state[full[HEAD]], len(tokens), source)

    def tensor(name: str) -> Tensor:
        if name in projector or name in frequencies:
            return projector[name] if name in projector else frequencies[name]
        value = language(full[name])
        return torch.cat([value, *(row[None].to(value.dtype) for row in rows[name])]) if name in rows else value

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


def _rows(source: Source, part: str, tokens: tuple[str, ...]) -> list[Tensor]:
    """float[D] of each added token: the trained one, or the initial one."""
    names = [f"added_tokens.{part}.{token}" for token in tokens]
    own = source.model.state_dict()
    return [source.cast(source.trained.get(name, own[name])).detach() for name in names]


def _taller(value: Tensor, more: int, source: Source) -> Tensor:
    cast = source.cast(value[:0])
    return torch.empty(value.shape[0] + more, *value.shape[1:], dtype=cast.dtype, device="meta")


def _meta(cast: Tensor, value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=cast.dtype, device="meta")


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
