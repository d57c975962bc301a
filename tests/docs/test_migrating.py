"""docs/migrating.md: its example is what the command writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from chatbridge.cli.migrate.command import main
from chatbridge.config.yaml_io import parse_yaml

PAGE = Path(__file__).parents[2] / "docs/migrating.md"


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """fails when the command on the page writes another file than the page shows"""
    text = PAGE.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```yaml\n# (old|new)\.yaml\n(.*?)```", text, re.DOTALL))
    commands = re.findall(r"^python -m chatbridge migrate (.*)$", text, re.MULTILINE)
    assert set(blocks) == {"old", "new"} and len(commands) == 1
    monkeypatch.chdir(tmp_path)
    Path("old.yaml").write_text(blocks["old"], encoding="utf-8")
    assert main(commands[0].split()) == 0
    written = Path("new.yaml").read_text(encoding="utf-8")
    assert parse_yaml(written, "new").data == parse_yaml(blocks["new"], "page").data
    assert written.splitlines()[1:] == blocks["new"].splitlines()
    assert "next: python train.py --cfg-path new.yaml --check" in capsys.readouterr().out
    assert yaml.safe_load(Path("table.json").read_text(encoding="utf-8"))["is_complete"]
