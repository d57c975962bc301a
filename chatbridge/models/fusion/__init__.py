"""Fusions put bridge tokens into the language model. One file per fusion; the file name is the name in YAML."""

from chatbridge.models.fusion.base import (
    FUSIONS,
    Context,
    Fusion,
    FusionConfig,
    Reader,
    change_layer_input,
    check_slots,
)

__all__ = ["FUSIONS", "Context", "Fusion", "FusionConfig", "Reader", "change_layer_input", "check_slots"]
