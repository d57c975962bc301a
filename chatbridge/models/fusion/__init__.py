"""Fusions hand bridge tokens to the language model. One file per fusion; the file name is the name in YAML."""

from chatbridge.models.fusion._hooks import before
from chatbridge.models.fusion.base import FUSIONS, Context, Fusion, FusionConfig, check_slots

__all__ = ["FUSIONS", "Context", "Fusion", "FusionConfig", "before", "check_slots"]
