"""Problems of validation, best checkpoint and early end, between the sections of a training file."""

from __future__ import annotations

from collections.abc import Iterator

from chatbridge.common.errors import Problem, nearest
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.runners.config import RunConfig
from chatbridge.tasks.config import EvaluationConfig


def watching_problems(data: DataConfig, run: RunConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    """Scores that would never be measured, or that do not exist."""
    validated = [name for name, number in data.held_out.items() if number]
    if run.validate_every is not None and not validated:
        hint = "hold out samples of every source: data.validation.samples=64; or of one: data.sources.<name>.validation"
        yield Problem("run.validate_every", "is set, but no sample is held out for it", hint=hint)
    if "loss" in validated:
        message = "validation/loss is the name of the loss over all sources; choose another name for this source"
        yield Problem("data.sources.loss", message)
    if (best := run.best_by) is None:
        return
    path = "run.best.metric" if run.best is not None else "run.patience"
    streams = dict.fromkeys(f"stream/{stream}" for name, stream in data.stream_of.items() if name in validated)
    names = (
        *(f"validation/{name}" for name in ("loss", *streams, *validated)),
        *(f"{name}/..." for name in evaluation.tasks),
    )
    task, _, score = best.metric.partition("/")
    if best.is_validation:
        if best.metric not in names:
            guess = nearest(best.metric, names)
            yield Problem(path, f"{best.metric!r} is not a score of this run", allowed=names, nearest=guess)
        elif run.validate_every is None:
            hint = "set run.validate_every, the steps between validations"
            yield Problem(path, f"is {best.metric}, which is not measured: run.validate_every is not set", hint=hint)
    elif task not in evaluation.tasks or not score:
        guess = nearest(best.metric, names)
        yield Problem(path, f"{best.metric!r} is not a score of this run", allowed=names, nearest=guess)
    elif evaluation.every is None:
        message = f"is {best.metric}, which is measured after the last step only: evaluation.every is not set"
        yield Problem(path, message, hint="set evaluation.every, the steps between evaluations")


def stream_problems(run: RunConfig, mixture: Mixture) -> Iterator[Problem]:
    """Validation of sources that can hold out nothing, known once they are open."""
    held = {name for name, indices in mixture.held_out.items() if len(indices)}
    reason = "its samples come as a stream (remote shards), from which none can be held out"
    if run.validate_every is not None and not held:
        yield Problem("run.validate_every", f"no source can be validated on: of each, {reason}")
    best = run.best_by
    name = best.metric.partition("/")[2] if best is not None and best.is_validation else ""
    if best is not None and name in mixture.sources and name not in held:
        others = ", ".join(f"validation/{one}" for one in sorted(held)) or "a task"
        hint = f"name another score, for example {others}"
        yield Problem("run.best.metric", f"is {best.metric}, but {reason}", hint=hint)
