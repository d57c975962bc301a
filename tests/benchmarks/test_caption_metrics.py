"""The benchmark of the caption metrics: both sides score the same, and ours is several times as fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.caption_metrics import ours, rows_of, theirs
from tests.tasks.metrics.caption_goldens import FOLDER, has_oracle

PARTS = {"import", "tokens", "bleu", "rouge_l", "cider", "meteor"}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """The references of the golden items, a line per image."""
    items = json.loads((FOLDER / "captions.json").read_text(encoding="utf-8"))["items"][:80]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps({"captions": item["references"]}) + "\n" for item in items), encoding="utf-8")
    return path


def test_rows_and_our_side(captions: Path) -> None:
    """fails when the captions differ between two starts, or a part is not measured"""
    rows = rows_of(captions, 20)
    assert rows == rows_of(captions, 20) and len(rows) == 20
    assert {len(row["references"]) for row in rows} == {5} and len({row["prediction"] for row in rows}) > 15
    assert set(ours(rows, "none")) == PARTS


@pytest.mark.slow
@pytest.mark.skipif(not has_oracle(), reason="needs pycocoevalcap and Java")
def test_faster_than_pycocoevalcap(captions: Path) -> None:
    """fails when 5000 captions with 5 references take more than 30 s, or half of the time of pycocoevalcap"""
    rows = rows_of(captions, 5000)
    own, other = ours(rows, "none"), theirs(rows)
    assert set(own) == set(other) == PARTS
    assert sum(own.values()) < 30 and sum(own.values()) < sum(other.values()) / 2
