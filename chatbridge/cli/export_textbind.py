"""`chatbridge export --layout textbind...`: a checkpoint as the code of TextBind reads it.

textbind-stage1   first_stage_model.pt: query tokens, Q-Former and projection
textbind          second_stage_model.pt: these and the language model with the rows of three added tokens

Both are one flat dictionary, in which BLIP-2's parts have the names of transformers. The vision transformer is in
neither; `weights convert --names huggingface` writes one that was trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from chatbridge.cli.export_parts import Part
from chatbridge.cli.export_release import Release, language_release
from chatbridge.cli.export_source import Source, whole_tensors
from chatbridge.models.bridges._qformer_checkpoint import to_released
from chatbridge.models.importers.textbind import bridge_of
from chatbridge.models.importers.textbind_names import LM, TOKENS

LAYOUTS = ("textbind", "textbind-stage1")
_FILES = {"textbind": "second_stage_model.pt", "textbind-stage1": "first_stage_model.pt"}


def textbind_part(source: Source, layout: str) -> Part:
    """What `--layout` writes, as one part.

    raises   ValueError when the model has no such layout, or its weights are not those of the training
    """
    release = _release(source, with_language=layout == "textbind")

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        torch.save({name: release.tensor(name).clone() for name in release.shapes}, path / _FILES[layout])

    def said(path: Path) -> str:
        return (
            f"{path / _FILES[layout]}, {len(release.shapes)} tensors in the layout of TextBind; set it as run.init_from"
        )

    return Part(layout, layout, release.num_bytes, write, said, is_folder=True)


def _release(source: Source, with_language: bool) -> Release:
    """raises ValueError for a model without a Q-Former of one query set, or with other added tokens"""
    try:
        bridge = f"bridges.{bridge_of(source.model)}"
        qformer = to_released(whole_tensors(source, bridge), "huggingface")
    except ValueError as error:
        raise ValueError(f"this model has no layout of TextBind: {error}") from None
    shapes = {name: value.to("meta") for name, value in qformer.items()}
    if not with_language:
        return Release(shapes, qformer.__getitem__, ())
    added = source.model.config.added_tokens
    if set(added) != set(TOKENS):
        raise ValueError(
            f"the layout of TextBind has rows of {', '.join(TOKENS)}; model.added_tokens has "
            f"{', '.join(added) or 'none'}"
        )
    language = language_release(source, TOKENS, "TextBind", copies_head=True)
    shapes |= {f"{LM}.{name}": value for name, value in language.shapes.items()}

    def tensor(name: str) -> Tensor:
        return qformer[name] if name in qformer else language.tensor(name.removeprefix(f"{LM}."))

    return Release(shapes, tensor, TOKENS)
