"""`chatbridge --help` answers at once: it imports little, and nothing heavy."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import startup, startup_sides
from benchmarks.step_shapes import SMALL

HEAVY = {"torch", "numpy", "transformers", "timm", "torchvision", "PIL", "omegaconf", "yaml", "tokenizers", "rich"}
MOST_MODULES = 160  # of which Python's own start and the site packages' hooks import about 100


def test_help_imports_nothing_heavy() -> None:
    """fails when the command line imports torch or another large package before it knows the command"""
    found = startup.modules(["--help"])
    assert not found & HEAVY
    assert len(found) < MOST_MODULES, sorted(found)
    ours = {name for name in found if name.startswith("chatbridge")}
    assert not any(name.startswith(("chatbridge.models", "chatbridge.datasets", "chatbridge.runners")) for name in ours)


def test_help_takes_a_fraction_of_a_second() -> None:
    """fails when starting takes much more than the target of 0.15 s; generous, since test machines are busy"""
    assert min(startup.seconds(startup.HELP)[1] for _ in range(3)) < 4 * startup.HELP_TARGET


def test_sides_that_differ_are_not_compared() -> None:
    """fails when times of different networks, or of one whose weights were not read, share a table"""
    startup.check_same({"ours": "1000 0.5", "other": "log line\n1004 0.5"})
    for wrong in ("1020 0.5", "1000 0.25"):
        with pytest.raises(ValueError, match="different models"):
            startup.check_same({"ours": "1000 0.5", "other": wrong})


@pytest.mark.slow
def test_the_compared_ways_build_the_same_model(tmp_path: Path) -> None:
    """fails when a side of the comparison does not read the files, or builds another network"""
    startup_sides.write(tmp_path, SMALL)
    found = {name: " ".join(map(str, side(tmp_path))) for name, side in startup_sides.SIDES.items()}
    startup.check_same(found)
