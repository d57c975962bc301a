"""Checks of adapters and of the optimizer that need several sections of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from chatbridge.common.errors import Problem
from chatbridge.models.config import ModelConfig, may_match
from chatbridge.runners.config import RunConfig
from chatbridge.runners.optim import kind_problems


def adapter_run_problems(model: ModelConfig, run: RunConfig) -> Iterator[Problem]:
    """An optimizer that is not available; full training of weights in 8 or 4 bits, and DoRA beside those in 8 bits."""
    yield from kind_problems(run.optimizer, run.device, run.parallel)
    bits = getattr(model.language.config, "bits", None)
    for number, adapter in enumerate(model.adapters):
        if bits == 8 and adapter.use_dora and any(may_match(pattern, "language") for pattern in adapter.targets):
            message = "reads the weights, which it cannot where they are in 8 bit"
            hint = "set it to false, or use load_in_4bit in place of load_in_8bit"
            yield Problem(f"model.adapters[{number}].use_dora", message, hint=hint)
    # of other patterns, such as *norm*, the built model tells whether they match a tensor of the language model
    whole = [one for one in model.trainable if one == "*" or one.startswith("language")]
    if bits is not None and whole:
        message = f"is set, but weights in {bits} bit cannot be trained, and model.trainable has {whole[0]!r}"
        hint = "remove it from model.trainable; adapters (model.adapters) can be trained beside them"
        yield Problem(f"model.language.load_in_{bits}bit", message, hint=hint)
