"""The configuration of a run whose weights and data need not be on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import absent_files_noted
from chatbridge.config.merge import load
from chatbridge.config.original_keys import with_keys_here
from chatbridge.config.origins import MISSING, Unresolved
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import parse
from chatbridge.experiment.media_plan import startable
from chatbridge.experiment.opened import RUN_FILES, Opened, with_known_files
from chatbridge.experiment.roots import REGISTRIES, Experiment
from chatbridge.experiment.validate_adapters import adapter_run_problems
from chatbridge.experiment.validate_shard import sharding_problems

SIZES = Path(__file__).with_name("sizes.yaml")
OUTPUT = "runs/planned"  # where the YAML does not say yet


@dataclass(frozen=True)
class PlannedRun:
    """A training run as far as it can be planned.

    absent   a line for each file of the model or the run that is not there
    assumed  a line for each setting that was taken from elsewhere
    bits     of the language model's stored matrices, 8 or 4; None: they keep their dtype
    """

    opened: Opened[Experiment]
    absent: tuple[str, ...]
    assumed: tuple[str, ...]
    bits: int | None = None

    @property
    def config(self) -> Experiment:
        return self.opened.config


@cache
def known_sizes() -> Mapping[str, Any]:
    """The content of sizes.yaml."""
    return yaml.safe_load(SIZES.read_text(encoding="utf-8"))


def planned_run(path: str | Path, options: Sequence[str] = ()) -> PlannedRun:
    """Read a file of train_configs. Files that are absent, and ??? in their place, are no problem.

    raises   ConfigError with every other mistake
    """
    mapping, origins = load(path, options)
    add_plugins(REGISTRIES, plugin_names(mapping))
    if problems := list(_not_a_training(mapping, str(path))):
        raise ConfigError(problems)
    model, absent = with_known_files(mapping["model"])
    model, assumed = _with_sizes(model, mapping["model"])
    model["language"], bits = _without_quantization(model["language"])
    run, absent_of_run = _without_files(mapping["run"])
    data = {key: value for key, value in mapping["data"].items() if not _is_open(value)}
    whole = {**mapping, "model": model, "run": run, "data": data}
    with absent_files_noted():
        try:
            config = parse(Experiment, whole, origins)
        except ConfigError as error:
            raise ConfigError(with_keys_here(error.problems)) from None
    if bits is not None and (problems := list(_problems_of_bits(config, bits))):
        raise ConfigError(with_keys_here(problems))
    opened = Opened(Path(path), whole, origins, parsed=config)
    return PlannedRun(opened, (*absent, *absent_of_run), tuple(assumed), bits)


def _not_a_training(mapping: Mapping[str, Any], path: str) -> list[Problem]:
    missing = [key for key in ("model", "data", "run") if not isinstance(mapping.get(key), Mapping)]
    if not missing:
        return []
    if "evaluation" in mapping and "data" in missing:
        hint = "a plan is made for a training; `chatbridge evaluate --check` shows what an evaluation does"
    else:
        hint = "give a complete training run, for example one of train_configs/"
    listed = ", ".join(missing)
    return [Problem("", f"has no section {listed}, so it is not a training run", file=path, hint=hint)]


def _with_sizes(model: Mapping[str, Any], written: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The model node with random encoders in place of absent ones, and the public sizes of an absent language model."""
    encoders = {name: startable("encoders", one) for name, one in model.get("encoders", {}).items()}
    language, assumed = dict(model.get("language", {})), []
    if language.get("name") == "causal_lm" and not {"weights", "architecture"} & language.keys():
        place = str(written["language"].get("weights"))
        key = next((key for key in known_sizes()["languages"] if key in place.lower()), None)
        if key is not None:
            language["architecture"] = known_sizes()["languages"][key]
            assumed.append(f"sizes of the language model: those of {key}, by the name of {place}")
    return {**model, "encoders": encoders, "language": language}, assumed


def _without_quantization(language: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """The language node in its usual dtype, and the bits that it asks for: only weights on the disk are quantised."""
    names = {"load_in_8bit": 8, "low_resource": 8, "load_in_4bit": 4}
    asked = [bits for name, bits in names.items() if language.get(name) is True]
    if len(asked) != 1 or "weights" in language:
        return dict(language), asked[0] if len(asked) == 1 else None
    return {key: value for key, value in language.items() if key not in names}, asked[0]


def _problems_of_bits(config: Experiment, bits: int) -> Iterator[Problem]:
    """What a run whose language model is in 8 or 4 bits cannot have; `parse` sees it where the weights are there."""
    settings = replace(config.model.language.config, **{f"load_in_{bits}bit": True})
    model = replace(config.model, language=replace(config.model.language, config=settings))
    yield from adapter_run_problems(model, config.run)
    yield from sharding_problems(model, config.run)


def _without_files(run: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The run node without checkpoints that are not there."""
    kept, absent = {}, []
    for key, value in run.items():
        is_path = key in RUN_FILES and isinstance(value, str) and value not in ("auto", "never")
        if _is_open(value) or (is_path and not Path(value).exists()):
            absent.append(f"run.{key} ({value if isinstance(value, str) else 'not resolved'})")
        else:
            kept[key] = value
    return {"output_dir": OUTPUT, **kept}, absent


def _is_open(value: Any) -> bool:
    return value == MISSING or isinstance(value, Unresolved)
