"""${...}: values taken from other values and from the environment."""

from __future__ import annotations

import pytest

from chatbridge.config.origins import Unresolved
from tests.helpers.config_files import load_here, write


def test_values_follow_other_values(folder, monkeypatch):
    """fails when ${...} does not see the final value of the key it names, or an environment variable"""
    monkeypatch.setenv("CHATBRIDGE_TEST", "here")
    write("configs/b.yaml", "out: ${run.dir}/media\nrun: {dir: a, same: '${.dir}'}\nall: ${run}")
    mapping, _ = load_here(
        write("run.yaml", "base: [b.yaml]\nenv: ${oc.env:CHATBRIDGE_TEST}\ntext: \\${kept}\nelse: ${oc.env:NO_SUCH,7}"),
        "run.dir=z",
    )
    assert mapping == {
        "out": "z/media",
        "run": {"dir": "z", "same": "z"},
        "all": {"dir": "z", "same": "z"},
        "env": "here",
        "text": "${kept}",
        "else": "7",
    }


@pytest.mark.parametrize(
    ("value", "message", "nearest"),
    [
        ("${run.dirr}", "takes its value from 'run.dirr', which does not exist", "run.dir"),
        ("${run.open}", "takes its value from run.open, which is still ???", None),
        ("x/${run.open}/y", "takes its value from run.open, which is still ???", None),
        ("${oc.env:CHATBRIDGE_NO_SUCH}", "the environment variable CHATBRIDGE_NO_SUCH is not set", None),
        ("${nope:1}", "cannot be interpolated: Unsupported interpolation type nope", None),
        ("${run.dir", "'${run.dir' is not a valid interpolation", None),
        ("${a}", "cannot be interpolated: Recursive interpolation detected", None),
    ],
)
def test_dead_interpolations_wait_for_the_other_problems(folder, value: str, message: str, nearest: str | None):
    """fails when a dead ${...} is a traceback, or stops the loading before the other keys are checked"""
    mapping, _ = load_here(write("run.yaml", f"run: {{dir: a, open: ???}}\na: '{value}'\nlist: [1, '{value}']"))
    for found in (mapping["a"], mapping["list"][1]):
        assert isinstance(found, Unresolved)
        assert message in found.message
        assert found.nearest == nearest
    assert mapping["run"] == {"dir": "a", "open": "???"}


def test_a_mapping_that_holds_itself(folder):
    """fails when `a: {b: ${a}}` never ends"""
    mapping, _ = load_here(write("run.yaml", "a: {b: '${a}', c: 1}\nd: {e: '${f}'}\nf: {g: '${d}'}"))
    assert isinstance(mapping["a"]["b"], Unresolved)
    assert isinstance(mapping["d"]["e"]["g"], Unresolved)
