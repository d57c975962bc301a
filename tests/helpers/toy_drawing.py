"""The plugin toy_lab for the time of some tests."""

from __future__ import annotations

from collections.abc import Iterator

from chatbridge.config.registry import add_plugins
from chatbridge.experiment.roots import REGISTRIES
from tests.helpers.plugins import plugins_forgotten


def with_toy_lab() -> Iterator[str]:
    """The body of a fixture: a template that draws and a generator are registered, and forgotten afterwards."""
    with plugins_forgotten():
        add_plugins(REGISTRIES, ["toy_lab"])
        yield "toy_lab"
