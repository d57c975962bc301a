"""SPICE (Anderson et al., 2016), only through the Java program inside the package pycocoevalcap."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.extras import need
from chatbridge.tasks.metrics._captions import captions_of
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score

MODELS = "stanford-corenlp-3.6.0-models.jar"  # what the program parses captions with; the package downloads it


@METRICS.register("spice")
class Spice(Metric):
    """F1 of scene-graph tuples, mean over the items, 0 to 1; minutes for thousands of captions, and 8 GB of memory."""

    is_costly = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """No settings."""

    config: Config

    @property
    def packages(self) -> tuple[str, ...]:
        return ("pycocoevalcap",)

    @property
    def names(self) -> tuple[str, ...]:
        return ("spice",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """raises   DataError if Java or the parser's models are missing, or the program fails"""
        need("pycocoevalcap", "SPICE (with Java)")
        from pycocoevalcap.spice import spice as official

        if shutil.which("java") is None:
            raise DataError("spice needs Java, and there is no `java` on the PATH; install it, or take cider or meteor")
        models = Path(official.__file__).parent / "lib" / MODELS
        if not models.is_file():
            raise DataError(
                f"spice needs {MODELS} in {models.parent}; download it once where there is a network: "
                "python -c 'from pycocoevalcap.spice.spice import Spice; Spice()'"
            )
        captions = captions_of(items)
        keys = [f"{k:09d}" for k in range(len(items))]  # the program sorts by them
        truth = dict(zip(keys, map(list, captions.references), strict=True))
        answers = {key: [caption] for key, caption in zip(keys, captions.predictions, strict=True)}
        try:
            _, found = official.Spice().compute_score(truth, answers)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DataError(f"SPICE's Java program failed: {error}") from error
        values = [float(np.nan_to_num(one["All"]["f"])) for one in found]
        return [mean_score("spice", values)]
