"""Plugins for the time of some tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chatbridge.config.registry import Registry
from chatbridge.experiment.roots import REGISTRIES


@contextmanager
def plugins_forgotten() -> Iterator[None]:
    """Forgets the plugins that are added inside when it ends."""
    registries = [one for one in REGISTRIES if isinstance(one, Registry)]
    before = [list(registry.packages) for registry in registries]
    yield
    for registry, packages in zip(registries, before, strict=True):
        registry.packages[:] = packages
