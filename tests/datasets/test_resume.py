"""A killed run resumes with exactly the conversations it would have had."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.preloaded_processes import started_python
from tests.helpers.resume_data import KILLED, MIXES, digest, ids, prepare, steps

STOP = 37  # steps before the kill
WORKERS = 4
SPREADS = [(world, parts, mix) for world, parts in ((2, 1), (4, 1), (2, 2)) for mix in ("sample", "step")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume")
    prepare(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, list[Any]]:
    """mix -> for every step of a run without a stop and without workers: ids and a digest of its content."""
    return {mix: [(ids(step), digest(step)) for step in steps(folder, mix, 0, 0)] for mix in MIXES}


def test_a_killed_run_resumes_with_a_different_number_of_workers(folder: Path, whole: dict[str, list[Any]]):
    """fails when 4 workers for 37 steps, kill -9, 1 worker give other ids than no stop in one of the next 50 batches"""
    before = killed_after(folder, STOP)
    for mix in KILLED:
        after = [(ids(step), digest(step)) for step in steps(folder, mix, 1, STOP)]
        assert len(after) == 50 and [one[0] for one in after] == [one[0] for one in whole[mix][STOP:]], mix
        assert before[mix] + after == whole[mix], f"{mix}: same ids, other words or pixels"
    assert len({name for step in whole["step"] for micro in step[0] for name in micro}) > 60, "few samples were seen"


def killed_after(folder: Path, count: int) -> dict[str, list[Any]]:
    """mix -> the first steps that a separate process read before it and its workers were killed."""
    command = [str(Path(__file__).parents[1] / "helpers" / "resume_data.py"), str(folder), str(WORKERS)]
    said, errors, until = folder / "stdout", folder / "stderr", time.monotonic() + 300
    with started_python(command, said, errors) as child:
        while not said.is_file() or said.read_text().count("\n") < count * len(KILLED):
            assert child.is_alive() and time.monotonic() < until, errors.read_text()
            time.sleep(0.05)
        child.kill()  # SIGKILL: nothing can be saved or said
        child.join()
    assert child.exitcode == -signal.SIGKILL
    read: dict[str, list[Any]] = {mix: [] for mix in KILLED}
    for line in said.read_text().splitlines()[: count * len(KILLED)]:
        _, mix, names, content = json.loads(line)
        read[mix].append((names, content))
    assert all(len(steps) == count for steps in read.values())
    return read


@pytest.mark.parametrize("world, accumulate, mix", [*SPREADS, (2, 1, "micro")])
def test_a_resume_on_a_different_number_of_ranks(
    folder: Path, whole: dict[str, list[Any]], mix: str, world: int, accumulate: int
):
    """fails when the same global batch on a different number of ranks has different conversations in a step"""
    ranks = [list(steps(folder, mix, 0, STOP, STOP + 12, rank, world, accumulate)) for rank in range(world)]
    for number in range(12):
        micros = [ids(rank[number]) for rank in ranks]
        together = [name for micro in range(accumulate) for rank in micros for name in rank[micro]]
        assert together == [name for names in whole[mix][STOP + number][0] for name in names]
