"""The `metrics` of a task or of a command: names or names with settings, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.common.extras import how_to_install
from chatbridge.config.schema import parse
from chatbridge.tasks.metrics.base import METRICS, Metric

Chosen = Sequence[str] | Mapping[str, Any] | None


def named_settings(chosen: Chosen, defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> settings of the chosen metrics. A metric of the defaults keeps those that are not given.

    chosen    names, or names with settings; None: the defaults
    """
    if chosen is None:
        return {name: dict(settings) for name, settings in defaults.items()}
    given = chosen if isinstance(chosen, Mapping) else dict.fromkeys(chosen)
    return {str(name): {**defaults.get(name, {}), **(settings or {})} for name, settings in given.items()}


def built_metrics(settings: Mapping[str, Any]) -> dict[str, Metric]:
    """Name -> metric. raises ConfigError with all unknown names and wrong settings, below `metrics`"""
    found: dict[str, Metric] = {}
    problems: list[Problem] = []
    for name, given in settings.items():
        try:
            part = METRICS.get(name)
            found[name] = part(parse(part.Config, given, path=name))
        except ConfigError as error:
            problems += [_placed(one, name) for one in error.problems]
    if problems:
        raise ConfigError(problems)
    return found


def metric_problems(
    settings: Mapping[str, Any], main_metric: str | None, writes: frozenset[str] | None = None
) -> Iterator[Problem]:
    """Unknown metrics, wrong settings, metrics of another kind of task, packages that are not installed, two scores of
    one name, an unknown headline.

    writes   what the lines of the task have besides the text; None: not known, scoring sees it
    """
    try:
        metrics = built_metrics(settings)
    except ConfigError as error:
        yield from error.problems
        return
    owners: dict[str, str] = {}
    for name, metric in metrics.items():
        if lacking := sorted(metric.needs - writes) if writes is not None else []:
            message = f"{name} needs {', '.join(lacking)}, which tasks of this kind do not write"
            yield Problem("metrics", message, hint="choose another metric, or another kind of task")
        for package in metric.packages:
            if find_spec(package) is None:
                message = f"{name} needs the package {package!r}, which is not installed"
                yield Problem("metrics", message, hint=f"{how_to_install(package)}; or leave {name} out")
        for score in metric.names:
            if score in owners:
                message = f"{owners[score]} and {name} both give a score named {score}"
                yield Problem("metrics", message, hint="keep one of them")
            owners.setdefault(score, name)
    if main_metric is not None and main_metric not in owners:
        guess = nearest(main_metric, owners)
        message = f"the metrics of this task give no score named {main_metric!r}"
        yield Problem("main_metric", message, allowed=tuple(owners), nearest=guess)


def score_names(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of all scores of these metrics; () if the metrics have problems, which `metric_problems` reports."""
    try:
        return tuple(name for metric in built_metrics(settings).values() for name in metric.names)
    except ConfigError:
        return ()


@cache
def all_score_names() -> frozenset[str]:
    """The names of the scores of every metric that is complete without settings."""
    return frozenset(name for metric in METRICS.names() for name in score_names({metric: {}}))


def _placed(problem: Problem, name: str) -> Problem:
    """A problem of the metric `name`, whose own path begins with the name, below `metrics`."""
    if problem.path.startswith(f"{name}."):
        return replace(problem, path=f"metrics.{problem.path}")
    givers = [one for one in METRICS.names() if name not in METRICS.names() and name in score_names({one: {}})]
    hint = f"{name} is a score of {' and of '.join(givers)}" if givers else problem.hint
    return replace(problem, path="metrics", hint=hint)
