"""Checks of settings that are given per component: patterns of `run` over encoders.<name>, bridges.<name>, language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.models.attention_setting import attention_obstacle
from chatbridge.models.compilation import compile_obstacle
from chatbridge.models.config import ModelConfig, may_match
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.memory import matching
from chatbridge.runners.config import ComputeConfig, RunConfig


def lever_problems(model: ModelConfig, run: RunConfig) -> Iterator[Problem]:
    """Patterns that match no component, or only components for which the setting has no effect."""
    yield from unmatched("run.activation_checkpointing", run.activation_checkpointing, model)
    yield from _nothing_to_recompute(model, run.activation_checkpointing)
    yield from unmatched("run.compile", run.compile, model)


def dtype_problems(
    model: ModelConfig, run: ComputeConfig, is_sharded: bool = False, is_cached: bool = False
) -> Iterator[Problem]:
    """Exceptions to run.precision that match nothing, or that another setting excludes.

    is_sharded   run.parallel is shard: FSDP2 has one dtype for the layers it spreads
    is_cached    data.feature_cache is set: its features were computed in run.precision
    """
    names = component_names(model)
    for number, pattern in enumerate(run.compute_dtype):
        path, matched = f"run.compute_dtype.{pattern}", matching([pattern], names)
        if not matched:
            (problem,) = unmatched("run.compute_dtype", [pattern], model)
            yield replace(problem, path=path)
        if is_sharded and "language" in matched:
            yield Problem(path, "includes language, which run.parallel: shard computes in run.precision", allowed=tuple(
                name for name in names if name != "language"))  # fmt: skip
        if is_cached and any(name.startswith("encoders.") for name in matched):
            hint = "remove it, or data.feature_cache"
            yield Problem(path, "includes an encoder, but cached features are of run.precision", hint=hint)
        if number and pattern == "*":
            yield Problem(path, "comes last and replaces all patterns before it", hint="put it first")


def check_devices(model: ModelConfig, run: RunConfig, device: torch.device) -> None:
    """raises ConfigError for attention implementations that cannot be trained with on this device, and without a
    compiler for run.compile"""
    active = _in_backward(model)
    parts = {f"{kind}.{name}": one for kind in ("encoders", "bridges") for name, one in getattr(model, kind).items()}
    reason = compile_obstacle(device) if run.compile else None
    problems = [] if reason is None else [Problem("run.compile", reason)]
    for name, choice in {**parts, "language": model.language}.items():
        reason = attention_obstacle(getattr(choice.config, "attention", None), device, name in active)
        if reason is not None:
            hint = "set it to sdpa or eager, or remove it"
            problems.append(Problem(f"model.{name}.attention", f"{reason}; this run is on a CPU", hint=hint))
    if problems:
        raise ConfigError(problems)


def component_names(model: ModelConfig) -> tuple[str, ...]:
    """The names that patterns of `run` are compared with; `fusion` only if it has layers of its own."""
    names = (*(f"encoders.{name}" for name in model.encoders), *(f"bridges.{name}" for name in model.bridges))
    return (*names, *(() if model.fusion.part is Inline else ("fusion",)), "language")


def unmatched(path: str, patterns: Iterable[str], model: ModelConfig) -> Iterator[Problem]:
    """A problem for each pattern that matches no component; `path` is the setting, a list or a mapping."""
    names = component_names(model)
    for number, pattern in enumerate(patterns):
        if not matching([pattern], names):
            guess = nearest(pattern, names)
            hint = None if guess else "patterns match names of components, not of tensors: language, encoders.*"
            message = f"{pattern!r} matches no component with parameters"
            yield Problem(f"{path}[{number}]", message, allowed=names, nearest=guess, hint=hint)


def _nothing_to_recompute(model: ModelConfig, patterns: Iterable[str]) -> Iterator[Problem]:
    """Patterns of components that keep nothing for the backward pass: they are frozen, and so is all before them."""
    active = _in_backward(model)
    for number, pattern in enumerate(patterns):
        matched = matching([pattern], component_names(model))
        if model.trainable and matched and not set(matched) & active:
            message = f"{pattern!r} has no effect: no gradient passes through {', '.join(matched)}"
            able = components_in_backward(model)
            hint = "a frozen component that no trained one comes before keeps no activations; remove the pattern"
            yield Problem(f"run.activation_checkpointing[{number}]", message, allowed=able, hint=hint)


def components_in_backward(model: ModelConfig) -> tuple[str, ...]:
    """The components through which gradients pass, in the order of `component_names`."""
    active = _in_backward(model)
    return tuple(name for name in component_names(model) if name in active)


def _in_backward(model: ModelConfig) -> set[str]:
    """The components through which gradients pass."""
    patterns = (*model.trainable, *(pattern for adapter in model.adapters for pattern in adapter.targets))
    active = {name for name in component_names(model) if any(may_match(one, name) for one in patterns)}
    for route in model.routes.values():
        if f"encoders.{route.encoder}" in active:
            active.add(f"bridges.{route.bridge}")
    return active | {"fusion", "language"}  # every other component comes before them
