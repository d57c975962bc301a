"""Two processes never write one output at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from chatbridge.common.one_process import only_process
from tests.helpers.lock_holder import held


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path):
    """fails when two processes may write one output, a killed one keeps it, or the lock stays in the folder"""
    lock = tmp_path / "new/.a.jsonl.in_use"
    with (
        held(lock),
        pytest.raises(DataError, match="a.jsonl: another process writes it"),
        only_process(lock, "a.jsonl"),
    ):
        pytest.fail("both may write")
    with only_process(lock, "a.jsonl"):
        assert lock.exists()
    assert not any(lock.parent.iterdir())
