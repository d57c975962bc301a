"""The numbers of training stay what they were; first_losses.py says how they are replaced on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import first_losses
from tests.helpers.mini_world import MiniWorld
from tests.helpers.tolerances import FP32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("losses")


@pytest.fixture(scope="module")
def losses(folder: Path) -> dict[str, list[float]]:
    world = MiniWorld(folder / "world")
    return {case: first_losses.run(case, world, folder) for case in first_losses.CASES}


@pytest.mark.parametrize("case", first_losses.CASES)
def test_first_losses_are_those_of_the_golden(losses, case):
    """fails when anything between the files and the loss changes a number: layout, media, mask, dropout, reduction"""
    first_losses.compare(case, losses[case])


def test_one_process_equals_two(losses, folder):
    """fails when the loss curve of 1 x 8 and 2 x 4 conversations differs by more than rounding over 50 mixed steps"""
    assert losses["one_process"] == pytest.approx(losses["two_ranks"], rel=FP32)
    sources = {len(record["per_source"]) for record in first_losses.records(folder / "two_ranks")}
    assert sources & {3, 4}, "no step was mixed"
