"""Checks of adapters and of the optimizer that need several sections of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.models.adapters import AdapterConfig, adapter_shapes, adapter_targets
from chatbridge.models.config import ModelConfig, may_match
from chatbridge.models.trainable import TrainableReport, set_trainable
from chatbridge.runners.config import RunConfig
from chatbridge.runners.optim import kind_problems
from chatbridge.runners.optimizer_groups import GroupConfig, group_problems


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


def marked_trainable(model: nn.Module, config: ModelConfig, groups: Sequence[GroupConfig]) -> TrainableReport:
    """Mark the trainable parameters of a model, and check the groups of the optimizer against their names.

    raises   ConfigError with the problems of model.trainable, model.adapters and run.optimizer.groups together; a group
             pattern that may have no tensor only because of one of the former is not among them
    """
    try:
        report = set_trainable(model, config.trainable, config.adapters)
    except ConfigError as error:
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        names = [*trained, *adapter_shapes(adapter_targets(model, config.adapters), config.adapters)]
        found = group_problems(groups, names, _possible_names(model, config.adapters))
        raise ConfigError([*error.problems, *found]) from None
    if problems := group_problems(groups, report.names):
        raise ConfigError(problems)
    return report


def _possible_names(model: nn.Module, adapters: Sequence[AdapterConfig]) -> list[str]:
    """Tensors that would train with other patterns: all of the model, and those of adapters beside any layer."""
    everywhere = [replace(adapter, targets=("*",)) for adapter in adapters]
    return [*dict(model.named_parameters()), *adapter_shapes(adapter_targets(model, everywhere), everywhere)]
