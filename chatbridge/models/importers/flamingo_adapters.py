"""Whether the low-rank matrices of a Multimodal-GPT file are those of `model.adapters`: layers, rank and scale."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chatbridge.models.adapters import AdapterConfig
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import State
from chatbridge.models.importers.flamingo_names import Parts
from chatbridge.models.loading import mismatches
from chatbridge.models.merging import scale_of
from chatbridge.models.pickled_settings import settings_of
from chatbridge.models.weight_files import PICKLED, read_pickle

SETTINGS = "tuning_config"  # beside model_state_dict, with lora_r and lora_alpha


def check_adapters(model: ChatModel, parts: Parts, path: Path) -> None:
    """Check that the adapters of a file are exactly those of the language model and of the blocks.

    path     of the file, whose settings have the scale
    raises   ValueError when layers, ranks or scales differ
    """
    if not parts.adapters:
        return
    own = {name: value for name, value in model.state_dict().items() if _is_adapter(name)}
    ranks, theirs = _ranks(own), _ranks(parts.adapters)
    if not own:
        raise ValueError(
            f"holds {len(parts.adapters)} tensors of adapters of rank {theirs[0]}, and this model has no adapters; "
            f"set\nmodel.adapters:\n  - {_entry(parts, path)}"
        )
    if ranks != theirs and len(theirs) == 1 and own.keys() == parts.adapters.keys():
        here, there = (" and ".join(map(str, one)) for one in (ranks, theirs))
        raise ValueError(
            f"its adapters have rank {there}, those of model.adapters {here}: set model.adapters[0].rank to {theirs[0]}"
        )
    if problems := mismatches(own, parts.adapters):
        wanted = f"the entry of model.adapters for this file is\n  - {_entry(parts, path)}"
        raise ValueError("\n".join(["its adapters are not those of model.adapters:", *problems, wanted]))
    _check_scale(model, theirs[0], path)


def tuning_settings(path: Path) -> dict[str, Any]:
    """lora_r, lora_alpha and so on that Multimodal-GPT writes beside the tensors; {} where there are none."""
    if path.suffix not in PICKLED or not path.is_file():
        return {}
    content = read_pickle(path)
    return settings_of(content.get(SETTINGS), "lora_alpha") if isinstance(content, dict) else {}


def _check_scale(model: ChatModel, rank: int, path: Path) -> None:
    """raises ValueError when the file states a factor on B A that is not the one of model.adapters, or none at all

    rank   of the matrices in the file
    """
    settings = tuning_settings(path)
    if not settings:
        return
    alpha = _stated_alpha(settings, rank)
    entries: tuple[AdapterConfig, ...] = model.config.adapters
    for number, entry in enumerate(entries):
        if _touches(entry) and abs(scale_of(entry) - alpha / rank) > 1e-9:
            raise ValueError(
                f"was trained with alpha {alpha:g} and rank {rank}, so a factor of {alpha / rank:g}; that of "
                f"model.adapters[{number}] is {scale_of(entry):g}: set its alpha to {alpha * entry.rank / rank:g} and "
                "use_rslora to false"
            )


def _stated_alpha(settings: Mapping[str, Any], rank: int) -> float:
    """lora_alpha, beside which lora_r is left out or the rank of the matrices. raises ValueError for other values"""
    for key, is_valid, expected in (
        ("lora_alpha", lambda value: 0 < value < math.inf, "a number above 0"),
        ("lora_r", lambda value: value == rank, f"{rank}, the rank of its matrices"),
    ):
        value = settings.get(key, rank)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_valid(value):
            raise ValueError(
                f"its {SETTINGS} has {key} {value!r}, expected {expected}: the factor of its adapters is not known; "
                "take the file that the training wrote"
            )
    return float(settings["lora_alpha"])


def _touches(entry: AdapterConfig) -> bool:
    """Whether an entry is for layers of the language model or of the blocks."""
    return any(fnmatch.fnmatchcase(one, f"{target.partition('.')[0]}") for target in entry.targets
               for one in ("language", "fusion"))  # fmt: skip


def _is_adapter(name: str) -> bool:
    return name.startswith(("language.", "fusion.")) and ".lora_" in name


def _ranks(adapters: State) -> list[int]:
    return sorted({value.shape[0] for name, value in adapters.items() if ".lora_A." in name})


def _entry(parts: Parts, path: Path) -> str:
    """The entry of model.adapters for a file, as YAML."""
    settings, rank = tuning_settings(path), _ranks(parts.adapters)[0]
    alpha = settings.get("lora_alpha")
    alpha = alpha if isinstance(alpha, (int, float)) else rank
    return f"{{targets: [{', '.join(_patterns(parts.adapters))}], rank: {rank}, alpha: {alpha:g}}}"


def _patterns(adapters: Iterable[str]) -> list[str]:
    """Patterns of the layers: one for each last name of a layer, in either part."""
    layers = [name.partition(".lora_")[0] for name in adapters]
    return list(dict.fromkeys(f'"{layer.partition(".")[0]}.*{layer.rpartition(".")[2]}"' for layer in layers))
