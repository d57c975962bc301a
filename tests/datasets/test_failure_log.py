"""Failures are recorded, and too many stop the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch, Failure
from chatbridge.datasets.failure_log import GRACE, FailureLog


def broken(count: int, source: str = "web", first: int = 0) -> list[Failure]:
    return [Failure(source, f"id{first + i}", "truncated image", f"id{first + i}-other") for i in range(count)]


def test_failures_are_written_at_once(tmp_path: Path):
    """fails when a failure is lost, overwritten by the next, or the file cannot be parsed"""
    path = tmp_path / "run" / "failures.jsonl"
    failure_log = FailureLog(path, {"web": 0.5})
    assert not path.exists()
    failure_log.add(broken(2))
    FailureLog(path, {"web": 0.5}).add(broken(1, first=2))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["id0", "id1", "id2"]
    expected = {"source": "web", "id": "id0", "reason": "truncated image", "replaced_by": "id0-other"}
    assert lines[0] == {**expected, "kind": "failed", "drawn": -1}


def test_a_few_failures_are_always_allowed():
    """fails when one broken file among the first draws stops the run"""
    failure_log = FailureLog(None, {"web": 0.0})
    failure_log.add(broken(GRACE), ["web"] * 20)
    failure_log.check()
    failure_log.add(broken(1, first=GRACE))
    with pytest.raises(DataError):
        failure_log.check()


def test_the_budget_is_a_share_of_each_sources_draws():
    """fails when the draws of another source count, or the share is ignored"""
    failure_log = FailureLog(None, {"web": 0.02, "other": 0.02})
    failure_log.add(broken(20), ["web"] * 1000 + ["other"] * 9000)
    failure_log.check()
    failure_log.add(broken(1, first=20))
    assert failure_log.spent == ("web",)
    with pytest.raises(DataError) as caught:
        failure_log.check()
    text = str(caught.value)
    assert "source 'web': 21 failures in 1000 draws, 20 are allowed" in text
    assert "id0: truncated image" in text and "... and 1 more" in text and "failure_budget" in text


def test_batches_are_counted():
    """fails when the draws of a batch do not count, so that a long run meets the budget of a short one"""
    empty = torch.zeros(0)
    batch = Batch(empty, empty, empty, empty, empty, sources=("web", "web", "other"), failures=tuple(broken(1)))
    failure_log = FailureLog(None, {})
    failure_log.record([batch, batch])
    assert failure_log.draws == {"web": 4, "other": 2} and failure_log.failed == {"web": 2}


def test_the_message_names_the_file_and_is_short(tmp_path: Path):
    """fails when a thousand failures flood the screen or the message does not name the file with the rest"""
    failure_log = FailureLog(tmp_path / "failures.jsonl", {})
    failure_log.add(broken(1000))
    with pytest.raises(DataError) as caught:
        failure_log.check()
    assert len(str(caught.value).splitlines()) < 30
    assert str(tmp_path / "failures.jsonl") in str(caught.value) and "... and 980 more" in str(caught.value)


def test_a_file_that_fails_again_is_listed_once():
    """fails when one broken file of a small source, met in every pass, fills the list"""
    failure_log = FailureLog(None, {})
    failure_log.add([*broken(2), *broken(2) * 9])
    with pytest.raises(DataError) as caught:
        failure_log.check()
    assert "20 failures in 0 draws" in str(caught.value)
    assert str(caught.value).count("(10 times)") == 2 and "more" not in str(caught.value)


def draws(first: int, count: int, **fields: object) -> list[Failure]:
    return [
        Failure("web", f"id{drawn}", "truncated", "other", drawn=drawn, **fields)
        for drawn in range(first, first + count)
    ]


def test_ranks_share_one_budget(tmp_path: Path):
    """fails when every rank may lose as much as the run may, or one rank does not count the lines of another"""
    path = tmp_path / "failures.jsonl"
    one, two = (FailureLog(path, {"web": 0.0}, grace=5) for _ in range(2))
    one.begin({}), two.begin({})
    one.record([], {"web": 8})
    one.add(draws(0, 3))
    two.add(draws(3, 3))
    assert two.failed == {"web": 6} and two.spent == ("web",)
    one.record([], {"web": 8})
    assert one.failed == {"web": 6} and one.draws == {"web": 8} and one.spent == ("web",)
    with pytest.raises(DataError, match="6 failures in 8 draws(.|\n)*id3: truncated"):
        one.check()


def test_a_resumed_run_continues_its_counts(tmp_path: Path):
    """fails when a resume starts from zero, or counts failures after its checkpoint, which occur again"""
    path = tmp_path / "failures.jsonl"
    first = FailureLog(path, {"web": 0.5})
    first.begin({})
    first.add([*draws(0, 4), *draws(4, 2, kind="without sound"), *draws(90, 5), *draws(95, 1, kind="crashed")])
    with path.open("a") as file:
        file.write('{"source": "web", "id": "cut o')  # a crash while it was written
        file.write("\nnot ours\n")
    resumed = FailureLog(path, {"web": 0.5})
    crashed = resumed.begin({"web": 90})
    assert resumed.failed == {"web": 4} and resumed.counted["without sound"] == {"web": 2}
    assert [failure.id for failure in crashed] == ["id95"] and resumed.draws == {"web": 90}
    resumed.add(draws(90, 5))
    again = FailureLog(path, {})
    again.begin({"web": 95})
    assert resumed.failed == {"web": 9} == again.failed


def test_lines_of_another_format_are_skipped(tmp_path: Path):
    """fails when a torn line, or one of another program, ends a run or counts as a failure"""
    ours = {"source": "a", "id": "x", "reason": "broken", "kind": "crashed", "drawn": 1}
    changes = {"source": [], "id": 3, "reason": None, "kind": "odd", "drawn": "1"}
    strange: list[Any] = [{**ours, name: value} for name, value in changes.items()]
    strange += [{**ours, "kind": []}, {**ours, "drawn": None}]
    lines = [json.dumps(one).encode() for one in (*strange, [1], 3, None, {"source": "a"})]
    lines += [b"[" * 100_000, b'{"source": "a", "id": "\xff', b"\0" * 40, b"", json.dumps(ours).encode()]
    (tmp_path / "failures.jsonl").write_bytes(b"\n".join(lines) + b"\n" + json.dumps(ours).encode()[:30])
    failure_log = FailureLog(tmp_path / "failures.jsonl", {})
    assert [one.id for one in failure_log.begin({"a": 5})] == ["x"]
    assert failure_log.failed == {"a": 1}
    failure_log.add([Failure("a", "y", "gone", drawn=6)])
    assert failure_log.failed == {"a": 2} and "gone" in failure_log._report("a")


def test_a_fresh_run_in_the_same_folder(tmp_path: Path):
    """fails when a failure log reads from beyond the end after its file was renamed"""
    path = tmp_path / "failures.jsonl"
    FailureLog(path, {}).add(draws(0, 9))
    failure_log = FailureLog(path, {})
    path.unlink()
    failure_log.begin({})
    failure_log.add(draws(0, 1))
    assert failure_log.failed == {"web": 1}


def test_the_summary_of_a_run():
    """fails when a source that was drawn, or one that only failed, is missing from the table"""
    failure_log = FailureLog(None, {})
    failure_log.record([], {"web": 12000, "films": 30})
    failure_log.add(
        [*draws(0, 3), *draws(3, 2, kind="quarantined"), Failure("films", "a", "gone", kind="without sound")]
    )
    lines = [line.split() for line in failure_log.summary().splitlines()]
    assert lines[1:] == [
        ["source", "draws", "failed", "quarantined", "without", "sound", "repaired"],
        ["films", "30", "0", "0", "1", "0"],
        ["web", "12,000", "3", "2", "0", "0"],
    ]
