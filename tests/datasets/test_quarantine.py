"""A quarantine list in a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.quarantine import read_quarantine
from tests.helpers.tiny_media import write_json
from tests.helpers.unreliable_decoder import loader


def test_the_quarantine_list(tmp_path: Path, caplog):
    """fails when a listed sample is opened, counts against the budget, or the line of a broken list is not named"""
    path = write_json(tmp_path / "q.jsonl", [
        {"source": "web", "id": "crash0", "reason": "SIGSEGV"}, {"source": "gone", "id": "x", "reason": "old"},
    ])  # fmt: skip
    failure_log = FailureLog(tmp_path / "f.jsonl", {"web": 0.0}, grace=0)
    caplog.set_level(logging.INFO, "chatbridge")
    list(
        loader(tmp_path, ["crash0", "good1"], num_workers=0, quarantine=read_quarantine(path), failure_log=failure_log)
    )
    assert not failure_log.failed and failure_log.counted["quarantined"]["web"] == 12
    assert "1 samples are in quarantine; 1 belong to sources that this run does not have: gone" in caplog.text
    assert "web        24       0           12              0" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert lines[0]["kind"] == "quarantined" and lines[0]["reason"] == "SIGSEGV"
    path.write_text('{"source": "web", "id": "a"}\n{"source": "web"}\n')
    with pytest.raises(DataError, match=r"q.jsonl, line 2: expected .*data check --quarantine"):
        read_quarantine(path)
    assert len(read_quarantine(None)) == 0
