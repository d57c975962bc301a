"""Generators draw what an answer describes. One file per generator; the file name is the name in YAML."""

from chatbridge.models.generators.base import GENERATORS, Generator, GeneratorConfig

__all__ = ["GENERATORS", "Generator", "GeneratorConfig"]
