"""`chatbridge --help` answers at once: it imports little, and nothing heavy."""

from __future__ import annotations

from benchmarks import startup

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
