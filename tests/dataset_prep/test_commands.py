"""`python -m dataset_prep`, and the commands in pages and cards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataset_prep.__main__ import commands, main

COMMAND = re.compile(r"python -m (dataset_prep(?:\.\w+)*)")


def test_every_command_is_listed_with_its_purpose(capsys: pytest.CaptureFixture):
    """fails when a command is missing from the list, or has no description"""
    assert main() == 0
    printed, found = capsys.readouterr().out, dict(commands())
    assert all(f"\n{name} " in printed and len(purpose) > 20 for name, purpose in found.items())
    assert {"dataset_prep.web_images", "dataset_prep.tiny_world.quickstart"} <= set(found)
    assert "dataset_prep.common.workers" not in found


def test_commands_of_the_pages_exist(repository: Path):
    """fails when a page, a card, a YAML or a script names a command that does not exist"""
    files = [repository / "README.md", *(repository / "docs").glob("*.md"), *repository.glob("dataset_prep/**/*.md"),
             *repository.glob("*configs/**/*.yaml"), *repository.glob("dataset_prep/**/*.py")]  # fmt: skip
    named = {name for file in files for name in COMMAND.findall(file.read_text(encoding="utf-8"))}
    assert len(named) > 15
    assert named - {"dataset_prep"} <= dict(commands()).keys()


def test_other_modules_are_on_the_map(repository: Path):
    """fails when the docstring of dataset_prep does not explain a module that is not a command"""
    folder, runs = repository / "dataset_prep", {name.rpartition(".")[2] for name in dict(commands())}
    words = (folder / "__init__.py").read_text(encoding="utf-8")
    others = {path.stem for path in folder.iterdir() if path.suffix in ("", ".py")} - runs
    others -= {"__init__", "__main__", "__pycache__"}
    assert {name for name in others if not re.search(rf"\b{name}\b", words)} == set()
