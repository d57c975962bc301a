"""A folder of a diffusers pipeline, read without the package: its class, its parts, and what is missing in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatbridge.common.errors import Problem, some
from chatbridge.common.file_kind import head_of, other_kind
from chatbridge.config.constraints import missing_path
from chatbridge.models.hf_folder import is_id

INDEX = "model_index.json"
HALF = "fp16"  # the variant in which published pipelines store their weights a second time
ENDINGS = (".safetensors", ".bin", ".msgpack")
WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "feature_extractor", "image_processor", "processor", "guider")


@dataclass(frozen=True)
class PipelineFolder:
    """What model_index.json states.

    kind     name of the pipeline's class
    parts    name -> (library, class), without those that are null
    """

    folder: Path
    kind: str
    parts: Mapping[str, tuple[str, str]]

    def has_half(self, without: Collection[str] = ()) -> bool:
        """Whether every part with weights has them in the variant fp16."""
        named = [name for name in self.parts if name not in without and not _is_small(name)]
        return bool(named) and all(_weights(self.folder / name, half=True) for name in named)

    def has_full(self, without: Collection[str] = ()) -> bool:
        """Whether every part with weights has them without a variant."""
        named = [name for name in self.parts if name not in without and not _is_small(name)]
        return all(_weights(self.folder / name, half=False) for name in named)

    def size(self, half: bool, without: Collection[str] = ()) -> int:
        """Bytes of the weights that are read.

        half   read the variant fp16 where a part has it
        """
        return sum(self._part_size(name, half) for name in self.parts if name not in without)

    def _part_size(self, name: str, half: bool) -> int:
        files = (half and _weights(self.folder / name, True)) or _weights(self.folder / name, False)
        best = next((chosen for ending in ENDINGS if (chosen := [one for one in files if one.suffix == ending])), [])
        return sum(one.stat().st_size for one in best)


def read_pipeline_folder(folder: Path) -> PipelineFolder:
    """The pipeline of a folder. raises ValueError when it is none"""
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder} has no {INDEX}, so it is not the folder of a diffusers pipeline{_instead(folder)}")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} {other_kind(head_of(path), path) or f'is not JSON: {error}'}") from None
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if isinstance(kind, (list, tuple)):
        raise ValueError(f"{path}: the pipeline {kind[-1]} has code of its own, which is never executed")
    if not isinstance(kind, str):
        raise ValueError(f"{path} has no _class_name, so it does not describe a pipeline")
    return PipelineFolder(folder, kind, dict(_parts(index)))


def pipeline_problems(name: str, folder: Path, without: Collection[str] = ()) -> Iterator[Problem]:
    """Problems of the setting `name`, which holds the folder of a pipeline.

    without   names of parts that are not read from it
    """
    if (missing := missing_path(folder, "folder")) is not None:
        yield _absent(name, folder, missing)
        return
    if not folder.is_dir():  # absent files are only noted: a plan
        return
    try:
        found = read_pipeline_folder(folder)
    except ValueError as error:
        yield Problem(name, str(error))
        return
    absent = [part for part in found.parts if part not in without and not (folder / part).is_dir()]
    empty = [part for part in found.parts if part not in (*without, *absent) and _is_empty(folder / part)]
    for parts, lack in ((absent, "lacks the folders"), (empty, "has no weights in")):
        if parts:
            hint = "the download is incomplete; repeat it, which fetches only what is missing"
            yield Problem(name, f"{folder} {lack} {some(parts, 5)}, which its {INDEX} names", hint=hint)


def _absent(name: str, folder: Path, missing: Problem) -> Problem:
    if folder.exists():
        return replace(missing, path=name, hint=f"give the folder with {INDEX}")
    repository = folder.as_posix() if is_id(folder) else "OWNER/NAME"
    hint = f"nothing is downloaded automatically; run `python -m chatbridge weights fetch {repository} FOLDER`"
    if is_id(folder) and not folder.parent.is_dir():
        message = f"there is no folder {folder}, and no pipeline of that id in the Hugging Face cache"
        return Problem(name, message, hint=f"{hint}, then give FOLDER here", is_absent=True)
    return replace(missing, path=name, hint=f"{missing.hint}\n{hint}" if missing.hint else hint)


def _parts(index: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, value in index.items():
        is_part = isinstance(value, list) and len(value) == 2 and not name.startswith("_")
        if is_part and all(isinstance(one, str) for one in value):
            yield name, (value[0], value[1])


def _is_small(name: str) -> bool:
    return name.startswith(WITHOUT_WEIGHTS)


def _is_empty(part: Path) -> bool:
    return not _is_small(part.name) and not any(file.suffix in ENDINGS for file in part.iterdir())


def _weights(part: Path, half: bool) -> list[Path]:
    """The weight files of a part: `x.safetensors`, or `x.fp16.safetensors` and `x.fp16-00001-of-00002.safetensors`."""
    if not part.is_dir():
        return []
    files = [file for file in part.iterdir() if file.suffix in ENDINGS]
    return [file for file in files if _is_half(file.name) == half]


def _is_half(name: str) -> bool:
    return any(piece.startswith(HALF) for piece in name.split(".")[1:])


def _instead(folder: Path) -> str:
    """What the folder holds in place of a pipeline, for a message."""
    inner = [path.parent for path in folder.glob(f"*/{INDEX}")]
    if inner:
        return f"; {inner[0]} is one"
    if (folder / "config.json").is_file():
        return "; it is one model, not a pipeline of several"
    single = next(iter(folder.glob("*.safetensors")), None)
    return f"; single files ({single.name}) are not read, use the published folder" if single else ""
