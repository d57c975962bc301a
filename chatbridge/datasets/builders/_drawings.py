"""Drawings in a file of records: how many there are, and which have no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MOST_NAMED = 3


class Drawings:
    """Collects them while the lines of a file are checked.

    count    drawings of all records
    undrawn  where those without an image are
    """

    def __init__(self) -> None:
        self.count = 0
        self.undrawn: list[str] = []

    def add(self, place: str, record: dict[str, Any]) -> None:
        """`record` was found sound, at `place` of its file."""
        for number, message in enumerate(record["messages"]):
            parts = message["content"] if isinstance(message["content"], list) else ()
            for part in parts:
                if part["type"] == "drawing":
                    self.count += 1
                    if "path" not in part:
                        self.undrawn.append(f"{place}: message {number}")

    def fault(self, path: Path) -> str | None:
        """Why nothing can be trained on this file; None when every drawing has its image."""
        if not self.undrawn:
            return None
        named = "; ".join(self.undrawn[:MOST_NAMED]) + ("; ..." if len(self.undrawn) > MOST_NAMED else "")
        return (
            f"{path}: {len(self.undrawn)} of {self.count} drawings have no image ({named}), and training reads what "
            "was drawn"
        )
