"""Checks of adapters and of the optimizer that need several sections of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from chatbridge.common.errors import Problem
from chatbridge.models.config import ModelConfig, may_match
from chatbridge.runners.config import RunConfig
from chatbridge.runners.optim import kind_problems


def adapter_run_problems(model: ModelConfig, run: RunConfig) -> Iterator[Problem]:
    """A kind of optimizer that is not available; full training of a language model that is stored in 8 or 4 bits."""
    yield from kind_problems(run.optimizer, run.device, run.parallel)
    bits = getattr(model.language.config, "bits", None)
    whole = [pattern for pattern in model.trainable if may_match(pattern, "language")]
    if bits is not None and whole:
        message = f"is set, but weights in {bits} bit cannot be trained, and model.trainable has {whole[0]!r}"
        hint = "remove it from model.trainable; adapters (model.adapters) can be trained beside them"
        yield Problem(f"model.language.load_in_{bits}bit", message, hint=hint)
