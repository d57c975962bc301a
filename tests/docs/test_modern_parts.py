"""docs/modern_parts.md: every YAML is accepted, every command names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chatbridge.__main__ import COMMANDS
from chatbridge.experiment.roots import Experiment
from tests.helpers.placeholder_world import parse_with_placeholders

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/modern_parts.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_yaml_is_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a setting of the page is refused, or a base has another name"""
    if "4bit" in name:
        pytest.importorskip("bitsandbytes")
    for folder in ("configs", "train_configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(BLOCKS[name])
    config = parse_with_placeholders(Experiment, Path(name))
    assert config.run.output_dir.parts[0] == "runs"


def test_the_page_has_its_blocks():
    """fails when a YAML block has no file name, so that it is not tried"""
    assert len(BLOCKS) == PAGE.count("```yaml") == 3


def test_commands_name_what_exists():
    """fails when a command of the page has another name, or reads a configuration that does not exist"""
    commands = re.findall(r"^python -m chatbridge (\w+)", PAGE, re.MULTILINE)
    assert len(commands) >= 8 and set(commands) <= COMMANDS.keys()
    files = set(re.findall(r"\b(?:train_configs|eval_configs|configs)/[\w/]+\.yaml", PAGE))
    assert len(files) >= 6 and [one for one in files if not (ROOT / one).is_file()] == []
    for module, name in re.findall(r"python -m dataset_prep\.(\w+) (\w+)", PAGE):
        assert name in (ROOT / f"dataset_prep/{module}.py").read_text(encoding="utf-8")
