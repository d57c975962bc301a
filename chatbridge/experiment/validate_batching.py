"""What `data.batching` requires of the data, the language model and the fusion, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.datasets.config import DataConfig
from chatbridge.models.config import ModelConfig


def batching_problems(data: DataConfig, model: ModelConfig) -> Iterator[Problem]:
    """Settings without effect; for packed rows also their budget, and parts that cannot keep conversations apart."""
    if data.token_budget is not None and data.batching != "packed":
        message = f"is {data.token_budget}, but data.batching is {data.batching}: only packed rows have a budget"
        yield Problem("data.token_budget", message, hint="set data.batching: packed, or remove token_budget")
    if data.group_window != 1 and data.batching != "grouped":
        message = f"is {data.group_window}, but data.batching is {data.batching}: only grouped sorts a window of steps"
        yield Problem("data.group_window", message, hint="set data.batching: grouped, or remove group_window")
    if data.batching == "packed":
        yield from _budget_problems(data, model.language.config.context_length)
        yield from _isolation_problems(model)


def _budget_problems(data: DataConfig, context_length: int | None) -> Iterator[Problem]:
    """A budget below the longest sequence, which data.max_tokens or the context length limits, or no limit at all."""
    limits = {"data.max_tokens": data.max_tokens, "the context length of the language model": context_length}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    budget = data.token_budget
    if not known:
        stated = "is missing and cannot be derived" if budget is None else f"is {budget}"
        message = (
            f"{stated}: the longest sequence is not known, as neither data.max_tokens nor the language model limits it"
        )
        yield Problem("data.token_budget", message, hint=f"set data.max_tokens, for example {budget or 512}")
        return
    name, longest = min(known.items(), key=lambda one: one[1])
    if budget is not None and budget < longest:
        message = f"is {budget}, below the longest sequence, {longest} tokens ({name}), which would not fit into a row"
        hint = f"set token_budget to {longest} or more, or cut sequences with data.max_tokens: {budget}"
        yield Problem("data.token_budget", message, hint=hint)


def _isolation_problems(model: ModelConfig) -> Iterator[Problem]:
    """A language model or a fusion through which packed conversations would see each other. Both are built without
    memory; what prevents that is reported when the model is built."""
    remedy = "set data.batching: grouped, which needs no separation"
    try:
        with torch.device("meta"):
            language = model.language.part(model.language.config)
            fusion = model.fusion.part(model.fusion.config, language.width)
    except (ConfigError, ValueError, OSError, ImportError):
        return
    if (reason := language.segments_obstacle()) is not None:
        yield Problem("data.batching", f"cannot be packed: {reason}", hint=remedy)
    if (reason := fusion.segments_obstacle()) is not None:
        yield Problem("data.batching", f"cannot be packed: fusion {model.fusion.name}: {reason}", hint=remedy)
