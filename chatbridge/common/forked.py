"""What has to be new in a forked child: locks that a thread of the parent may hold, and threads, which it lacks."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewed(Protocol):
    """Has state that a forked child cannot use as it is."""

    def renew(self) -> None:
        """Called in the child, before anything else of it runs."""
        ...


def renew_in_children(owner: Renewed) -> None:
    """Call `owner.renew()` in every process that is forked from now on, as long as the object lives."""
    _owners.add(owner)


_owners: weakref.WeakSet[Renewed] = weakref.WeakSet()


def _renew_all() -> None:
    for owner in list(_owners):
        owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)

__all__ = ["Renewed", "renew_in_children"]
