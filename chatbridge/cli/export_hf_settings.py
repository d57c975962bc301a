"""The settings of an exported model, which name no file: sizes and preprocessing stand in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from chatbridge.cli.export_source import Source
from chatbridge.config.schema import plain
from chatbridge.conversation.layout import Layout
from chatbridge.models.encoders._hf_tower import HFTowerConfig
from chatbridge.models.encoders.hf_audio import HFAudio
from chatbridge.models.encoders.hf_vision import HFVision
from chatbridge.models.encoders.timm_vision import TimmVision
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.preprocessing_record import described
from chatbridge.models.weight_files import FILE_SETTINGS
from chatbridge.processors.hf_audio import build_extractor
from chatbridge.processors.hf_image import read_settings
from chatbridge.serve.transformers_model.media_settings import MediaSettings

_NO_SETTING = ("feature_extractor_type", "processor_class", "auto_map", "transformers_version")  # of an extractor


@dataclass(frozen=True)
class FolderSettings:
    """What config.json and processor_config.json hold beside the language model's own settings."""

    media: dict[str, Any]
    stops: dict[str, Any]
    processor: dict[str, Any]
    modules: tuple[str, ...]


def folder_settings(
    source: Source, layout: Layout, template: Mapping[str, Any], background: Mapping[str, str]
) -> FolderSettings:
    """The settings of a checkpoint's model for a folder of transformers.

    layout      of its conversations
    template    name and strings of its template
    background  encoder -> background of transparent pixels, where the run chose it
    raises      ValueError when the model cannot be described without its files
    """
    media = media_settings(source)
    for name, color in background.items():
        media["encoders"][name]["background"] = color
    stops = layout.stops
    return FolderSettings(
        media=media,
        stops={"ids": [list(ids) for ids in stops.ids], "strings": list(stops.strings)},
        processor={
            "media": media,
            "template": dict(template),
            "media_lengths": layout.media_lengths,
            "slot_ids": layout.slot_ids,
            "num_rows": source.model.language.num_embeddings,
            "added_tokens": list(source.model.config.added_tokens),
            "context_length": layout.context_length,
            "end_ids": list(source.model.language.end_ids),
        },
        modules=_modules(source, layout),
    )


def check_exportable(source: Source) -> None:
    """raises ValueError for a model that a folder of transformers cannot hold, with what can be done"""
    model = source.model
    if not isinstance(model.fusion, Inline):
        kind = type(model.fusion).__name__
        raise ValueError(
            f"--hf writes models whose media are tokens of the prompt (fusion: inline); this one has {kind}, whose "
            "layers inside the language model transformers has no place for. --layout mmgpt or openflamingo writes the "
            "files of that family's own code"
        )
    if not isinstance(model.language, CausalLM):
        raise ValueError(f"--hf writes language models of transformers; this one is {type(model.language).__name__}")
    if model.language._cache_argument is None:
        name = model.language.lm.config.model_type
        raise ValueError(f"--hf needs a language model with a cache of its own; {name} has none that generate can use")


def media_settings(source: Source) -> dict[str, Any]:
    """{"encoders", "bridges", "routes"} of a model, without files; checked to build the same parts.

    raises   ValueError when they do not
    """
    model, config = source.model, source.model.config
    encoders = {
        name: {"name": choice.name, **_encoder(model.encoders[name])} for name, choice in config.encoders.items()
    }
    bridges = {name: _without_files(plain(choice)) for name, choice in config.bridges.items()}
    found = {"encoders": encoders, "bridges": bridges, "routes": plain(dict(config.routes))}
    found = json.loads(json.dumps(found))
    _check_parts(source, found)
    return found


def _encoder(encoder: Any) -> dict[str, Any]:
    """Settings of an encoder as it was built: sizes that its file has are among them."""
    config = encoder.config
    if isinstance(config, HFTowerConfig):
        config = replace(config, architecture=_architecture(config), **_preprocessing(config))
    elif isinstance(config, TimmVision.Config):
        config = replace(config, random=True)
    return _without_files(plain(config))


def _architecture(config: HFTowerConfig) -> dict[str, Any]:
    settings = config.settings.to_dict()
    return {key: value for key, value in settings.items() if key not in ("_name_or_path", "transformers_version")}


def _preprocessing(config: Any) -> dict[str, Any]:
    if isinstance(config, HFVision.Config):
        own = config.preprocessing or read_settings(config.folder)
        crop = config.crop or ("center" if config.weights is not None and config.folder is None else None)
        return {"preprocessing": own, "image_size": config.side, "crop": crop}
    if isinstance(config, HFAudio.Config):
        extractor = build_extractor(config.folder, config.settings.model_type, config.extractor).to_dict()
        return {"extractor": {key: value for key, value in extractor.items() if key not in _NO_SETTING}}
    return {}


def _without_files(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with null for each of their files."""
    return {key: None if key in FILE_SETTINGS else value for key, value in settings.items()}


def _check_parts(source: Source, settings: Mapping[str, Any]) -> None:
    """raises ValueError when parts of these settings have other tensors, or read media differently"""
    found, model = MediaSettings.read(settings), source.model
    for modality, ours in model.config.processors(train=False).items():
        now, then = described(found.processors()[modality]), described(ours)
        if changed := sorted(key for key in {*now, *then} if now.get(key) != then.get(key)):
            raise ValueError(
                f"routes.{modality}: the preprocessing of this encoder cannot be written down without its files "
                f"({', '.join(changed)} would differ)"
            )
    with torch.device("meta"):
        for name, choice in found.encoders.items():
            twin = choice.part.for_routes(choice.config, found.modalities_of(name))
            _check_tensors(f"encoders.{name}", twin, model.encoders[name])


def _check_tensors(name: str, twin: Any, own: Any) -> None:
    now, then = ({key: tuple(value.shape) for key, value in part.state_dict().items()} for part in (twin, own))
    if now != then:
        differing = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
        raise ValueError(f"{name}: its sizes cannot be written down without its files ({differing[0]} would differ)")


def _modules(source: Source, layout: Layout) -> tuple[str, ...]:
    """The modules of the parts and the template."""
    config = source.model.config
    parts: list[Any] = [choice.part for choice in (*config.encoders.values(), *config.bridges.values())]
    return tuple(sorted({part.__module__ for part in (*parts, type(layout.template))}))


__all__ = ["FolderSettings", "check_exportable", "folder_settings", "media_settings"]
