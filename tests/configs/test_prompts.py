"""The prompt lists that ship are the published ones."""

from __future__ import annotations

import json
from pathlib import Path


def test_prompts_of_multis(repository: Path, reference: Path):
    """fails when the shipped prompts of stage 2 differ from the published ones"""
    shipped = json.loads((repository / "configs" / "prompts" / "multis.json").read_text())
    assert shipped == json.loads((reference / "data" / "multis_task_prompts.json").read_text())
    assert sum(map(len, shipped.values())) == 105
