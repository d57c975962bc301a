"""The model part of any configuration: a run, an evaluation or a file of configs/models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import load
from chatbridge.config.origins import Origins
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import parse
from chatbridge.experiment.roots import REGISTRIES
from chatbridge.models.config import ModelConfig


def config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, nargs="?", help="a YAML with a model in it")
    parser.add_argument("--cfg-path", type=Path, help="the same, as train.py calls it")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="model.language.weights=...")


def read_mapping(given: argparse.Namespace) -> tuple[dict[str, Any], Origins]:
    """The merged configuration with its `???`. raises ConfigError"""
    path = given.config or given.cfg_path
    if path is None:
        raise ConfigError([Problem("", "name a YAML file, for example configs/models/chatbridge_vicuna13b.yaml")])
    mapping, origins = load(path, given.options)
    add_plugins(REGISTRIES, plugin_names(mapping))
    if not isinstance(mapping.get("model"), dict):
        raise ConfigError([Problem("model", "is missing: this file describes no model", file=str(path))])
    return mapping, origins


def read_model(mapping: dict[str, Any], origins: Origins) -> ModelConfig:
    """raises   ConfigError with everything that is wrong in it, `???` and missing files among it"""
    return parse(ModelConfig, mapping["model"], origins, path="model")


def init_from(mapping: dict[str, Any], key: str = "init_from") -> str | None:
    run: Sequence[str] | Any = mapping.get("run")
    return run.get(key) if isinstance(run, dict) and isinstance(run.get(key), str) else None
