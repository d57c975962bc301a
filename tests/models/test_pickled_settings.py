"""Weights files that hold an object of a settings library beside their tensors, as Multimodal-GPT writes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from chatbridge.models.pickled_settings import settings_of
from chatbridge.models.weight_files import read_pickle, read_state

LORA = {"lora": True, "lora_r": 16, "lora_alpha": 8, "lora_target_modules": ["q_proj", "ff.1"], "unfrozen": []}


class ConfigDict(dict):
    """As addict's Dict, whose state is the dictionary itself."""

    def __getstate__(self) -> Any:
        return self

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("code of the settings library was run")


class Config:
    """As mmengine's Config: an object with a state of its own."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = ConfigDict(content)

    def __getstate__(self) -> Any:
        return (self.content, "configs/lora_config.py", "text", {})

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("code of the settings library was run")


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Config]]:
    """The library under its own name while a file is written; it is gone when the file is read."""
    names = ("mmengine", "mmengine.config", "mmengine.config.config")
    modules = {name: ModuleType(name) for name in names}
    for kind in (Config, ConfigDict):
        monkeypatch.setattr(kind, "__module__", names[-1])
        setattr(modules[names[-1]], kind.__name__, kind)
    sys.modules.update(modules)
    yield Config
    for name in names:
        sys.modules.pop(name, None)


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmengine"]:
        del sys.modules[name]
    return path


def test_settings_of_mmengine_are_read_without_it(mmengine: type[Config], tmp_path: Path) -> None:
    """Fails when such a file is refused, its tensors are lost, a class of the library runs, or a setting is lost."""
    weight = torch.randn(3, 2)
    held = {"model_state_dict": {"a.weight": weight}, "tuning_config": mmengine(LORA), "epoch": 1}
    path = written(tmp_path / "final_weights.pt", held)
    assert torch.equal(read_state(path)["a.weight"], weight)
    settings = read_pickle(path)["tuning_config"]
    assert settings_of(settings, "lora_alpha") == LORA
    assert settings_of(settings, "lora_beta") == {}


def test_code_beside_such_settings_is_refused(mmengine: type[Config], tmp_path: Path) -> None:
    """Fails when a file with a settings object may run anything else."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = written(tmp_path / "evil.pt", {"model_state_dict": {"a": torch.ones(1)}, "x": mmengine(LORA), "y": Evil()})
    with pytest.raises(ValueError, match="refused, it is not a plain file of tensors"):
        read_state(path)
    assert not (tmp_path / "ran").exists()
