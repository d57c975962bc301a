"""--options KEY=VALUE: values are YAML, and the order of options does not matter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.config_files import load_here, problems, write


@pytest.mark.parametrize("options", [["m.v.name=b", "m.v.width=3"], ["m.v.width=3", "m.v.name=b"]])
def test_another_name_by_option_drops_the_node_in_any_order(folder, options: list[str]):
    """fails when the order of two --options decides whether one of them is lost"""
    mapping, _ = load_here(write("run.yaml", "m: {v: {name: a, size: g}}"), *options)
    assert mapping == {"m": {"v": {"name": "b", "width": 3}}}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("a.b=400", 400),
        ("a.b=1e-4", 1e-4),
        ("a.b=[x, y.*]", ["x", "y.*"]),
        ("a.b={c: 1, d: {e: 2}}", {"c": 1, "d": {"e": 2}}),
        ("a.b=null", None),
        ("a.b=", None),
        ("a.b=x=y", "x=y"),
        ("a.b='1'", "1"),
        ("a.b=true", True),
        ("a.b=${a.c}", 7),
        ("a.b=???", "???"),
    ],
)
def test_options_are_read_as_yaml(folder, option: str, value: Any):
    """fails when --options a.b=... reads another value than the same text in the file"""
    mapping, origins = load_here(
        write("run.yaml", "a: {b: {z: 1}, c: 7}") if "{" not in option else write("r.yaml", "a: {c: 7}"), option
    )
    assert mapping["a"]["b"] == value
    assert origins["a.b"] == "--options"


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("run.max_steps", "", "'run.max_steps' is not of the form key=value"),
        ("=3", "", "'=3' is not of the form key=value"),
        ("run..x=3", "", "'run..x=3' is not of the form key=value"),
        ("run.x=[1", "run.x", "the value '[1' is not valid YAML"),
        ("run.x={a: 1, a: 2}", "run.x", "is defined twice"),
        ("list.0=3", "list", "is a list; 'list.0=3' cannot set one of its items"),
        ("base=[a.yaml]", "base", "cannot be set here"),
        ("run.x:3", "", "a setting is key=value: run.x=3"),
        ("run.x: 3", "", "a setting is key=value: run.x=3"),
        ("run.x={lr:1e-3}", "run.x", "inside braces YAML needs a space after the colon: lr: 1e-3"),
        ("run.x={a: [{b:c}]}", "run.x.a[0]", "a space after the colon: b: c"),
    ],
)
def test_broken_options_are_problems(folder, option: str, path: str, message: str):
    """fails when a slip on the command line gives a traceback or is ignored"""
    (problem,) = problems(write("run.yaml", "list: [1]"), option)
    assert (problem.path, problem.file) == (path, "--options")
    assert message in f"{problem.message}\n{problem.hint}"
