"""Fields of an annotation beside the conversation reach evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.datasets.builders import BUILDERS

TURNS = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A circle."}]


def records(folder: Path, **fields):
    builder = BUILDERS.get("records")
    (folder / "own.jsonl").write_text(json.dumps({"messages": TURNS, **fields}))
    return builder(builder.Config(file=folder / "own.jsonl"), "own")


def test_records_carry_their_details(tmp_path):
    """fails when a field that results are grouped by is lost on the way from the file"""
    dataset = records(tmp_path, details={"kind": "shape"})
    assert dataset.record(0, np.random.default_rng(0)).details == {"kind": "shape"}
    assert records(tmp_path).record(0, np.random.default_rng(0)).details == {}


def test_details_that_are_not_an_object_are_refused(tmp_path):
    """fails when a wrong type is found only during an evaluation"""
    with pytest.raises(DataError, match="'details' is"):
        records(tmp_path, details="shape")


def test_multis_records_carry_their_annotation(tmp_path):
    """fails when a field that results are grouped by is lost on the way from a MULTIS file"""
    annotation = {"image_id": "a.jpg", "question": "What is it?", "answer": "A circle.", "kind": "shape"}
    (tmp_path / "qa.json").write_text(json.dumps([annotation]))
    (tmp_path / "a.jpg").write_bytes(b"not decoded here")
    builder = BUILDERS.get("questions")
    dataset = builder(builder.Config(annotations=tmp_path / "qa.json", tag="ti-qa", image_folder=tmp_path), "qa")
    assert dataset.record(0, np.random.default_rng(0)).details["kind"] == "shape"
