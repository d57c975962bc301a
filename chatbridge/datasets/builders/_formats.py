"""What builders with a `format:` share: their extra keys, checked against what the format takes, and its records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from chatbridge.common.errors import DataError, Problem
from chatbridge.config.schema import missing_path
from chatbridge.datasets.annotations import Packed, pack
from chatbridge.datasets.builders.base import DatasetConfig
from chatbridge.datasets.formats.entries import Format, Options
from chatbridge.datasets.formats.screening import Screen, Unanswered

FIRST = 3  # records that tell what a file is
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FormatConfig(DatasetConfig):
    """One annotation file in one of several layouts."""

    annotations: Path  # the annotation file; what it looks like is said by `format`
    # records without an answer (test splits): refuse the file, skip them, or keep them as prompts of an evaluation
    unanswered: Unanswered = "refuse"

    formats: ClassVar[Mapping[str, Format]] = {}  # every layout but MULTIS's, which the builders read themselves

    @property
    def layout(self) -> Format | None:
        """None for MULTIS's own."""
        return self.formats.get(getattr(self, "format", ""))

    @property
    def options(self) -> Options:
        known = {field.name for field in fields(Options)} & {field.name for field in fields(self)}
        return Options(**{name: getattr(self, name) for name in known})

    def problems(self) -> Iterator[Problem]:
        """Missing files, keys that the format does not take, keys it cannot do without."""
        for key in ("annotations", "questions", "mapping"):
            path = getattr(self, key, None)
            if path is not None and (problem := missing_path(path, "file")):
                yield replace(problem, path=key)
        name, layout = getattr(self, "format", ""), self.layout
        taken = layout.takes if layout else ()
        extras = {key for one in self.formats.values() for key in one.takes}.difference(taken)
        for field in fields(self):
            if field.name in extras and getattr(self, field.name) != field.default:
                users = ", ".join(key for key, one in self.formats.items() if field.name in one.takes)
                yield Problem(field.name, f"is not used by the format {name!r}; it belongs to: {users}")
        for key, meaning in (layout.needs if layout else {}).items():
            if getattr(self, key) is None and self.unanswered != "keep":
                hint = "questions without answers: unanswered: keep, for an evaluation"
                yield Problem(key, f"is missing: the format {name!r} has two files; {meaning}", hint=hint)


def read_layout(config: FormatConfig, layout: Format, name: str, check: Callable[[Any], str | None]) -> Packed:
    """The records of a public layout, normalised and packed; says in the log what was left out.

    name     what the run calls this source
    check    what else can be wrong with a normalised record
    """
    split = getattr(config, "split", None)
    screen = Screen(config.annotations, (split,) if isinstance(split, str) else split, config.unanswered)
    found = screen(layout.read(config.options))
    with suggesting(config):
        packed = pack(config.annotations, ((one.place, one.record, one.fault or check(one.record)) for one in found))
    for note in screen.notes():
        logger.warning("source %s: %s: %s", name, config.annotations, note)
    return packed


@contextmanager
def suggesting(config: FormatConfig) -> Iterator[None]:
    """A file whose first records do not fit its format is often another format's: two files were swapped."""
    try:
        yield
    except DataError as error:
        own = config.layout
        fits = [] if own and _fits(own, config) else [key for key, one in config.formats.items() if _fits(one, config)]
        if not fits:
            raise
        raise DataError(f"{error}\n    its records fit format: {' or '.join(fits)}; is it the right file?") from None


def _fits(layout: Format, config: FormatConfig) -> bool:
    """Whether the first records of the file can be read in a layout."""
    if any(getattr(config, key) is None for key in layout.needs):
        return False
    try:
        first = list(islice(layout.read(config.options), FIRST))
    except DataError:
        return False
    return bool(first) and all(one.fault is None for one in first)
