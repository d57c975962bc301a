"""The settings in which runs differ: one row each, and one for a whole source or part that only some runs have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatbridge.common.text_table import text_table
from chatbridge.report.run_list import ListedRun

NAMED = ("data.sources", "evaluation.tasks", "model.encoders", "model.bridges", "model.routes")  # name -> settings
LONGEST = 40  # characters of a value in the table
WIDEST = 120  # columns of the table; beyond it each setting is a list of its values


def setting_differences(runs: Sequence[ListedRun]) -> dict[str, list[str]]:
    """setting -> its value in each run, of those that are not the same in all runs whose settings are known.

    run.output_dir is left out.
    """
    flat = [flat_settings(run.settings) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {key: [one.get(key, "(not set)") if one else "?" for one in flat] for key in keys if key != "run.output_dir"}
    return {key: values for key, values in rows.items() if len({*values} - {"?"}) > 1}


def differences_text(runs: Sequence[ListedRun]) -> str:
    """The differences for a terminal: sources and parts that only some runs have, then the settings."""
    if len(runs) < 2:
        return "one run: nothing to compare"
    partial = _partial(runs)
    rows = {
        key: values
        for key, values in setting_differences(runs).items()
        if not any(key == name or key.startswith(f"{name}.") for name in partial)
    }
    lines = [f"{name}: only in {', '.join(owners)}" for name, owners in partial.items()]
    if not rows:
        return "\n".join(lines) or "no setting differs"
    table = text_table(
        ["setting", *(run.name for run in runs)], [[key, *map(_short, row)] for key, row in rows.items()]
    )
    if max(map(len, table.splitlines())) > WIDEST:
        table = "\n".join(line for key, values in rows.items() for line in _by_value(key, values, runs))
    return "\n".join([*lines, *([""] if lines else []), table])


def _partial(runs: Sequence[ListedRun]) -> dict[str, list[str]]:
    """ "data.sources.x" -> the runs that have it, of those that not every run with known settings has."""
    known = [run for run in runs if run.settings]
    owners: dict[str, list[str]] = {}
    for run in known:
        for parent in NAMED:
            for name in _below(run.settings, parent):
                owners.setdefault(f"{parent}.{name}", []).append(run.name)
    return {name: names for name, names in owners.items() if len(names) < len(known)}


def _below(settings: Mapping[str, Any], path: str) -> list[str]:
    """The names under a path; [] where there is nothing."""
    node: Any = settings
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return [str(name) for name in node] if isinstance(node, Mapping) else []


def _by_value(key: str, values: Sequence[str], runs: Sequence[ListedRun]) -> Iterator[str]:
    """A setting as a list: one line per value, with the runs that have it."""
    yield key
    for value in dict.fromkeys(values):
        names = [run.name for run, one in zip(runs, values, strict=True) if one == value]
        yield f"    {_short(value, 2 * LONGEST)}: {', '.join(names)}"


def _short(text: str, longest: int = LONGEST) -> str:
    """The end of a long text, which is where paths differ."""
    return text if len(text) <= longest else f"...{text[3 - longest :]}"


def flat_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Dotted path -> value as JSON."""
    return dict(_flat(settings))


def _flat(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        inner = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, inner)
        else:
            yield inner, json.dumps(value, ensure_ascii=False, default=str)
