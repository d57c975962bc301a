"""The `data.feature_cache` section of a YAML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from chatbridge.common.errors import Problem
from chatbridge.config.schema import Length, NameIn
from chatbridge.conversation.modalities import MODALITIES

Stored = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class FeatureCacheConfig:
    """Features of frozen encoders in place of media; `chatbridge cache CFG` builds them."""

    folder: Path  # where the features are; several runs, models and modalities may share it
    # how values are stored: fp32 and bf16 as such, int8 with a scale per token. A run in bf16 loses nothing with bf16
    values: Stored = "bf16"
    # modalities to read from the cache; null: those with a frozen encoder and preprocessing without random choices
    modalities: Annotated[tuple[Annotated[str, NameIn(MODALITIES)], ...], Length(low=1)] | None = None

    def problems(self) -> Iterator[Problem]:
        if self.folder.is_file():
            yield Problem("folder", f"{self.folder} is a file", hint="name a folder, or one that does not exist yet")
