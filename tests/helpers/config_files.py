"""YAML files of a test, and what loading them gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import load


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


def load_here(path: str, *options: str):
    return load(path, options, config_root=Path("configs"))


def problems(path: str, *options: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_here(path, *options)
    return list(caught.value.problems)
