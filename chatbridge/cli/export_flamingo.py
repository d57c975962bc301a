"""`chatbridge export --layout mmgpt|openflamingo`: a checkpoint as the code of Multimodal-GPT reads it.

mmgpt         final_weights.pt: the adapters and what else was trained, with the settings of the adapters
openflamingo  checkpoint.pt: the whole resampler, gated blocks and embedding, to be the base of a training

The reference's demo drops every name of an mmgpt file without `module.`, so all have it, as its checkpoints have. The
settings are a Namespace of Python's, whose fields it reads as those of mmengine's object.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.export_parts import Part, num_bytes
from chatbridge.cli.export_source import Source, language_tensors, whole_tensors
from chatbridge.models.component_tensors import component_of
from chatbridge.models.flamingo_names import released_block_name, released_resampler_name
from chatbridge.models.importers.flamingo import BLOCKS, LM, TOKENS
from chatbridge.models.importers.flamingo_names import EMBEDDING, HEAD
from chatbridge.models.merging import Update, scale_of

LAYOUTS = ("mmgpt", "openflamingo")
_PEFT = "base_model.model."
_TARGET = re.compile(r"(ff\.\d+|[^.]+)$")  # what peft compares with the end of a layer's name
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def flamingo_part(source: Source, layout: str, merge: bool) -> Part:
    """What `--layout` writes, as one part.

    merge    add adapters to the weights of their layers (openflamingo)
    raises   ValueError when the model or what it trained has no such layout
    """
    _check_model(source)
    if layout == "mmgpt":
        if merge:
            raise ValueError("--layout mmgpt is a file of adapters, so --merge leaves nothing; give one of the two")
        return _adapter_part(source)
    return _base_part(source, merge)


def _adapter_part(source: Source) -> Part:
    """The trained tensors with the names and settings of Multimodal-GPT."""
    settings = tuning_config(source.adapted, _others(source))
    tensors = {f"module.{name}": value for name, value in _adapters(source).items()}
    tensors |= {f"module.{name}": value for name, value in _trained_besides(source).items()}
    content = {"model_state_dict": tensors, "tuning_config": settings}
    return _part("mmgpt", "final_weights.pt", content, tensors, "set it as run.init_from beside model.weights")


def _base_part(source: Source, merge: bool) -> Part:
    """The resampler, the blocks and the embedding whole, with OpenFlamingo's names."""
    adapted = sorted({component_of(name) for name in source.adapted})
    if "language" in adapted:
        raise ValueError(
            "--layout openflamingo has no place for adapters of the language model; --layout mmgpt writes them"
        )
    if adapted and not merge:
        raise ValueError("--layout openflamingo has no adapters; add those of the blocks to the weights with --merge")
    if layers := [name for name in source.trained if name.startswith(f"{LM}model.layers.")]:
        raise ValueError(
            f"the decoder layers were trained too ({layers[0]}), which --layout openflamingo does not hold; export the "
            "language model with --layout chatbridge --component language"
        )
    blocks = {f"fusion.{name}": value for name, value in whole_tensors(source, "fusion").items()}
    bridge = f"bridges.{_bridge(source)}"
    resampler = {f"{bridge}.{name}": value for name, value in whole_tensors(source, bridge).items()}
    tensors = {_released(source, name): value for name, value in (resampler | blocks).items()}
    tensors[f"lang_encoder.{EMBEDDING}"] = _vocabulary(source, "embedding")
    return _part("openflamingo", "checkpoint.pt", tensors, tensors, "set it as model.weights")


def _part(layout: str, file: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor], use: str) -> Part:
    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        torch.save(dict(content), path / file)

    return Part(
        layout, layout, num_bytes(tensors), write,
        lambda path: f"{path / file}, {len(tensors)} tensors as Multimodal-GPT reads them; {use}", is_folder=True,
    )  # fmt: skip


def tuning_config(adapted: Mapping[str, Update], others: Iterable[str]) -> Namespace:
    """The settings of the adapters as Multimodal-GPT names them.

    others   released names of tensors that were trained beside them
    raises   ValueError when no layer has an adapter, or adapters differ in rank or factor, or are DoRA
    """
    kinds = {(one.entry.rank, scale_of(one.entry), one.entry.dropout) for one in adapted.values()}
    if not kinds:
        raise ValueError("--layout mmgpt is a file of adapters, and none were trained; --layout openflamingo is whole")
    if len(kinds) > 1 or any(one.magnitude is not None for one in adapted.values()):
        raise ValueError(
            "the layout of Multimodal-GPT has one rank and one alpha for all adapters, and no DoRA; export them with "
            "--layout chatbridge"
        )
    ((rank, scale, dropout),) = kinds
    released = (_released_layer(name) for name in adapted)
    targets = [found[1] for name in released if (found := _TARGET.search(name))]
    return Namespace(
        lora=True, lora_target_modules=list(dict.fromkeys(targets)), lora_r=rank, lora_alpha=_whole(scale * rank),
        lora_dropout=dropout, vis=True, unfrozen=sorted(dict.fromkeys(others)),
    )  # fmt: skip


def _adapters(source: Source) -> dict[str, Tensor]:
    """A and B by released name, as peft has written them since 0.3."""
    tensors = {}
    for name, update in source.adapted.items():
        layer = f"lang_encoder.{_PEFT}{_released_layer(name)}"
        for matrix, value in (("lora_A", update.down), ("lora_B", update.up)):
            tensors[f"{layer}.{matrix}.default.weight"] = source.cast(value).clone()
    return tensors


def _released_layer(name: str) -> str:
    """The released name, after `lang_encoder.base_model.model.`, of a layer with an adapter."""
    if name.startswith(BLOCKS):
        return _block(f"{name}.weight").removesuffix(".weight")
    if found := _LAYER.fullmatch(name.removeprefix(LM)):
        return f"model.layers.{found[1]}.decoder_layer.{found[2]}"
    raise ValueError(
        f"{name} has an adapter; the layout of Multimodal-GPT has them in decoder layers of a LLaMA and in gated "
        "blocks alone; export with --layout chatbridge"
    )


def _others(source: Source) -> list[str]:
    """Released names of the tensors that were trained beside the adapters."""
    return list(_trained_besides(source, names_only=True))


def _trained_besides(source: Source, names_only: bool = False) -> dict[str, Tensor]:
    """Trained tensors that are no adapters, by released name; of a vocabulary the whole. raises ValueError"""
    tensors: dict[str, Tensor] = {}
    for name, value in source.trained.items():
        if ".lora_" in name:
            continue
        part = _vocabulary_part(name)
        released = f"lang_encoder.{EMBEDDING if part == 'embedding' else HEAD}" if part else _released(source, name)
        released = released.replace("lang_encoder.", f"lang_encoder.{_PEFT}")
        if released not in tensors:
            whole = _vocabulary(source, part) if part and not names_only else source.cast(value).clone()
            tensors[released] = whole
    return tensors


def _vocabulary_part(name: str) -> str | None:
    """embedding or head for a tensor of either, or a row of an added token; None for any other."""
    for part, ours in (("embedding", EMBEDDING), ("head", HEAD)):
        if name.startswith(f"added_tokens.{part}.") or name == f"{LM}{ours}":
            return part
    return None


def _vocabulary(source: Source, part: str) -> Tensor:
    """float[R, D], the language model's rows and those of the added tokens, in the order of the release."""
    model = source.model
    _, language = language_tensors(source)
    own = language(f"{LM}{EMBEDDING if part == 'embedding' else HEAD}")
    assert model.added_tokens is not None
    model.added_tokens.start(model.language)
    state = whole_tensors(source, "added_tokens")
    rows = [state[f"{part}.{token}"][None].to(own.dtype) for token in TOKENS]
    return torch.cat([own, *rows])


def _released(source: Source, name: str) -> str:
    """The released name of a tensor of the resampler, a block or the language model. raises ValueError for others"""
    bridge = f"bridges.{_bridge(source)}."
    if name.startswith(bridge):
        return f"perceiver.{released_resampler_name(name.removeprefix(bridge))}"
    if name.startswith(BLOCKS):
        return f"lang_encoder.{_block(name)}"
    if name.startswith(LM):
        inner = _LAYER.sub(r"model.layers.\1.decoder_layer.\2", name.removeprefix(LM))
        return f"lang_encoder.{inner}"
    raise ValueError(
        f"{name} was trained, which the layouts of Multimodal-GPT have no name for; use --layout chatbridge"
    )


def _block(name: str) -> str:
    """The released name, after `lang_encoder.`, of a tensor of a gated block."""
    number, _, inner = name.removeprefix(BLOCKS).partition(".")
    return f"model.layers.{number}.gated_cross_attn_layer.{released_block_name(inner)}"


def _bridge(source: Source) -> str:
    return source.model.config.image_route.bridge


def _check_model(source: Source) -> None:
    """raises ValueError when the model is not of Multimodal-GPT's kind"""
    state = source.model.state_dict()
    routes = source.model.config.routes
    wrong = []
    if not any(name.startswith(BLOCKS) for name in state):
        wrong.append("model.fusion is not cross_attention")
    if not routes or "latents" not in source.model.bridges[_bridge(source)].state_dict():
        wrong.append("the bridge of images is not resampler")
    if not any(_LAYER.fullmatch(name.removeprefix(LM)) for name in state if name.startswith(LM)):
        wrong.append("the language model is not named like LLaMA")
    if lost := [token for token in TOKENS if token not in source.model.config.added_tokens]:
        wrong.append(f"model.added_tokens lacks {', '.join(lost)}")
    if wrong:
        raise ValueError(f"not a model of Multimodal-GPT's kind: {'; '.join(wrong)}; export with --layout chatbridge")


def _whole(value: float) -> float:
    """An int where it is one, as the reference writes alpha."""
    return int(value) if value == int(value) else value
