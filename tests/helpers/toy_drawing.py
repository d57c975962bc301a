"""The plugin toy_lab for the time of some tests."""

from __future__ import annotations

from collections.abc import Iterator

from chatbridge.config.registry import Registry
from chatbridge.experiment.roots import REGISTRIES


def with_toy_lab() -> Iterator[str]:
    """The body of a fixture: a template that draws and a generator are registered, and forgotten afterwards."""
    registries = [one for one in REGISTRIES if isinstance(one, Registry)]
    before = [list(registry.packages) for registry in registries]
    for registry in registries:
        registry.add_plugin("toy_lab")
    yield "toy_lab"
    for registry, packages in zip(registries, before, strict=True):
        registry.packages[:] = packages
