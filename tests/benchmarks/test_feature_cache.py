"""benchmarks/feature_cache.py runs, and its sides compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import feature_cache


@pytest.mark.slow
def test_both_tables_are_written(tmp_path: Path, capsys):
    """fails when the benchmark does not run, a side has another loss, or int8 is not the smallest"""
    file = tmp_path / "found.json"
    assert feature_cache.main(["--tiny", "--media", "image", "--rounds", "1", "--json", str(file)]) == 0
    (found,) = json.loads(file.read_text())["results"]
    assert [row["values"] for row in found["storage"]] == ["fp32", "bf16", "int8"]
    assert len({round(row["loss"], 4) for row in found["steps"]}) == 1
    assert "| int8 |" in capsys.readouterr().out
