"""Generators draw images from captions. One file per generator; the file name is the name in YAML."""

from chatbridge.models.generators.base import (
    GENERATORS,
    Generator,
    GeneratorConfig,
    RenderError,
    RenderStopped,
    Watch,
    is_watched,
    watching,
)

__all__ = [
    "GENERATORS",
    "Generator",
    "GeneratorConfig",
    "RenderError",
    "RenderStopped",
    "Watch",
    "is_watched",
    "watching",
]
