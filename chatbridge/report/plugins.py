"""The plugins of a run, so that a report knows its modalities and opens its data for examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import ConfigError
from chatbridge.common.log import get_logger
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.experiment.roots import REGISTRIES

log = get_logger(__name__)


def use_plugins(settings: Mapping[str, Any], path: Path) -> None:
    """Add what `plugins` of a resolved.yaml names. A plugin that is not there costs the examples of its data, and a
    warning says so: a report must not need more than the run folder."""
    try:
        add_plugins(REGISTRIES, plugin_names(settings))
    except ConfigError as error:
        reasons = "; ".join(problem.message for problem in error.problems)
        log.warning("%s: %s; the report has no examples of its data", path, reasons)
